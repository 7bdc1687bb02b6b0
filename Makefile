# make demo   a fresh machine: environment, simulated cohort, the three scripts, scores
# make test   a fresh machine: environment, lint, all tests
# make lint   ruff and mypy
# make ecg-cmr   ECG and cardiac MRI: all stages on 2,000 simulated patients, tables in results/ecg-cmr
# make ecg-to-cmr   cines generated from ECGs of 2,000 simulated patients, tables and figure in results/ecg-to-cmr
# make speed   speed of preparation, training and inference on this machine: results/benchmarks/speed-*.csv
# make robustness   1,000 mutated recordings, 200 faults: results/benchmarks/torture.csv
# make audit   known vulnerabilities of the dependencies; needs the network
#
# PYTHON   interpreter of the environment, 3.11 or later
# TORCH    what pip installs first; torch==2.13.0 is the CUDA build on Linux. CPU only, anywhere:
#          make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
WORKERS ?= 2

.PHONY: demo test lint ecg-cmr ecg-to-cmr speed robustness torture audit clean

demo: $(VENV)/.installed
	$(BIN)/python load_data.py --simulate
	$(BIN)/python training.py --run-name demo-session --overwrite --width 8 --epochs 4 --batch-size 32 --fold-count 4 --at-once 2
	$(BIN)/python evaluate.py --checkpoint checkpoints/demo-session
	$(BIN)/python training.py --run-name demo-beat --overwrite --width 8 --epochs 4 --batch-size 32 --protocol beat --folds 0
	$(BIN)/python evaluate.py --checkpoint checkpoints/demo-beat
	@echo
	@echo "Two tables above, one network, one cohort of simulated patients: session-level split (first),"
	@echo "and beat-level split (second), whose scores are inflated by patients in train and test."
	@echo "Curves:   $(BIN)/tensorboard --logdir runs"
	@echo "Figures:  results/*/figures    Tables: results/*/report.md"
	@echo "Next, real recordings:  $(BIN)/python load_data.py --download"

test: $(VENV)/.installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations 10

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

ecg-cmr: $(VENV)/.installed
	$(BIN)/python -m studies.ecg_cmr

ecg-to-cmr: $(VENV)/.installed
	$(BIN)/python -m studies.ecg_to_cmr

speed: $(VENV)/.installed-dev
	$(BIN)/python -m studies.speed

robustness torture: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m studies.robustness

audit: $(VENV)/.installed
	$(PIP) pip-audit
	$(BIN)/pip-audit --local

$(VENV)/.installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt requirements-cpu.txt $(VENV)/.installed
	$(PIP) -r requirements-cpu.txt -r requirements-dev.txt
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
