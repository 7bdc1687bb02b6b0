"""What every part may use: errors meant for the user, files written whole or not at all."""
