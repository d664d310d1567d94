# The two commands of a fresh clone are `make run` and `make test`; they need git, make, python3 with venv, and a
# package index. Everything is installed into .venv/ of this folder. A stamp there says what has been installed,
# so that it is done again when setup.cfg changes and not otherwise.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# make run: the name in the new certificate (default: the one that mailsvc gives itself on this machine), and
# further options for `twistd mailsvc`
MAILNAME ?=
ARGS ?=
# make fuzz: targets and options of `python -m tests.fuzz`
FUZZ ?=

.DEFAULT_GOAL := help
.PHONY: help run test check lint demo fuzz clean
.DELETE_ON_ERROR:

help:
	@echo 'make run     start mailsvc here, with a certificate of its own in certs/ (on localhost; root gets the mail ports)'
	@echo '             (MAILNAME=mail.example.org names it, ARGS="..." adds options of twistd mailsvc)'
	@echo 'make demo    see mail taken in and fetched again, on temporary ports'
	@echo 'make test    the test suite, by pytest and by trial'
	@echo 'make check   what CI runs besides: ruff, mypy, layers, coverage'
	@echo 'make fuzz    a million inputs for each parser (FUZZ="address --seconds 60" chooses)'
	@echo 'make clean   remove what these made; certs/ and the database stay'
	@echo 'PYTHON=python3.12 chooses the interpreter (3.11 or newer).'

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mailsvc needs Python 3.11 or newer; PYTHON=... chooses one")'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# an editable install: what is edited here is what runs
$(VENV)/.run: $(VENV)/.made setup.cfg pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

run: $(VENV)/.run
	@ls certs/*/fullchain.pem >/dev/null 2>&1 || { \
	  name='$(MAILNAME)'; \
	  test -n "$$name" || name=$$($(BIN)/mailsvc config describe hostname | sed -n 's/^hostname = "\(.*\)"$$/\1/p'); \
	  echo "certs/ has no server certificate: mailsvc certs init makes a private CA and one for $$name"; \
	  $(BIN)/mailsvc certs init certs/ --hostname "$$name" --hostname localhost >$(VENV)/certs-init.log \
	    || { cat $(VENV)/certs-init.log; exit 1; }; }
	@exec $(BIN)/twistd -n --pidfile= mailsvc --certs certs/ $(if $(MAILNAME),--hostname '$(MAILNAME)') $(ARGS)

# both runners have their say, also when the first one fails
test: $(VENV)/.test
	@pytest=0; trial=0; \
	$(BIN)/pytest || pytest=$$?; \
	$(BIN)/trial tests || trial=$$?; \
	echo "make test: pytest $$(test $$pytest = 0 && echo passed || echo FAILED)," \
	  "trial $$(test $$trial = 0 && echo passed || echo FAILED)"; \
	test $$pytest = 0 && test $$trial = 0

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_layers.py

check: lint
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage report

demo: $(VENV)/.run
	@$(BIN)/mailsvc demo

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz $(FUZZ)

clean:
	rm -rf $(VENV) build dist *.egg-info _trial_temp* .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage htmlcov
	rm -f twisted/plugins/dropin.cache
	find mailsvc tests twisted -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo 'certs/ and the database were left alone'
