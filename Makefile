# make lab        set up, then open JupyterLab at the first lesson (ARGS="--port 9000" and the like)
# make test       set up, then lint, types, unit tests and every notebook
# make notebooks  re-execute the notebooks and rewrite their stored outputs
# make model      rebuild Pocket Llama from its corpus (hours on two cores)
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: lab test notebooks model clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "This course needs Python 3.11 or newer; yours is %d.%d. Try: make lab PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/lab.done: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -c constraints.txt -e ".[lab]"
	@touch $@

.venv/test.done: .venv/lab.done
	$(PIP) install -q -c constraints.txt -e ".[lab,test,corpus]"
	@touch $@

lab: .venv/lab.done
	$(BIN)/python -m course_utils lab $(ARGS)

test: .venv/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbval --nbval-current-env

notebooks: .venv/test.done
	$(BIN)/python -m course_utils.notebooks run

model: .venv/test.done
	$(BIN)/python -m pocket_llama.train

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
