# O curso em comandos curtos: `make` os lista. Só usa o que o make 3.81 do macOS conhece.

PYTHON ?= python3
BIN := .venv/bin
FAMILIA ?= bert
DESTINO ?= meu-$(FAMILIA)-pt

ifneq ($(filter-out cpu,$(TORCH)),)
$(error TORCH=$(TORCH) não existe aqui: use TORCH=cpu, para o PyTorch sem GPU, ou não use TORCH)
endif

.PHONY: ajuda aula teste teste-rapido slides modelos bancada bancada-velocidade
.DEFAULT_GOAL := ajuda

ajuda: ## lista os comandos
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s  %s\n", $$1, $$2 }' Makefile
	@echo "Sem GPU no Linux, a primeira vez com TORCH=cpu poupa alguns GB: make aula TORCH=cpu"

aula: .venv/pronto ## copia os cadernos para meus-cadernos/ e abre o JupyterLab (JUPYTER_ARGS vai para ele)
	@$(BIN)/ftcourse aluno
	@$(BIN)/jupyter lab --allow-root --log-level=WARN $(JUPYTER_ARGS) meus-cadernos/00_comece_aqui.ipynb

teste: .venv/pronto ## confere o estilo e os tipos, roda os testes e todos os cadernos
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --nbval-lax --nbval-current-env --nbval-cell-timeout 300 tests notebooks

teste-rapido: .venv/pronto ## o mesmo sem os cadernos, com dois casos de cada teste: para quem mudou um arquivo
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --rapido tests

slides: .ferramentas .venv/pronto ## monta a aula de LoRA em slides/pronto: HTML, PDF e notas; precisa de node, npm e Chromium
	@$(BIN)/python slides/constroi.py

# Nunca existe: é o que confere, antes da instalação longa, se há com que montar os slides.
.ferramentas:
	@command -v $(PYTHON) >/dev/null || { echo "Não encontrei o comando $(PYTHON). Instale o Python 3.11 ou mais novo, ou aponte o seu: make slides PYTHON=python3.12." >&2; exit 1; }
	@$(PYTHON) slides/ferramentas.py

modelos: .venv/pronto ## pré-treina um modelo da FAMILIA bert, llama ou t5 com a pasta de textos CORPUS, do zero ou do modelo em DE; interrompido, continua
	@test -n "$(CORPUS)" || { echo "Diga onde estão os textos: make modelos CORPUS=pasta, com arquivos .txt ou .txt.xz." >&2; exit 1; }
	$(BIN)/python data/modelos/pretreina.py $(FAMILIA) "$(CORPUS)" "$(DESTINO)" $(if $(DE),--de "$(DE)")

bancada: .venv/pronto ## completa as medidas de data/resultados: TAREFA=uma só, TUDO=tudo as de exploração, IMPORTA=pasta as de outra máquina; interrompida, continua
	$(BIN)/python -m ftcourse.benchmark $(TAREFA) $(if $(TUDO),--tudo) $(if $(IMPORTA),--importa "$(IMPORTA)")

bancada-velocidade: .venv/velocidade ## compara o tempo do que se escreve à mão com o das bibliotecas; interrompida, continua
	$(BIN)/python tests/velocidade.py

# Sem torchao a bancada roda do mesmo jeito: diz que comparações pulou.
.venv/velocidade: .venv/pronto
	@$(BIN)/python -m pip install -q -c constraints.txt $(if $(TORCH),--extra-index-url https://download.pytorch.org/whl/cpu) -e ".[velocidade]" \
		&& touch $@ || echo "A biblioteca torchao não se instalou: as comparações com ela ficam de fora." >&2

# O carimbo vem por último: uma instalação interrompida não o deixa, e a próxima chamada a retoma.
.venv/pronto: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Não encontrei o comando $(PYTHON). Instale o Python 3.11 ou mais novo, ou aponte o seu: make aula PYTHON=python3.12." >&2; exit 1; }
	@$(PYTHON) ftcourse/environment.py
	@echo "Instalando o curso em .venv: alguns minutos, só desta vez."
	@$(PYTHON) -m venv .venv
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -c constraints.txt $(if $(TORCH),--extra-index-url https://download.pytorch.org/whl/cpu) -e ".[caderno,testes]" \
		|| { echo "A instalação parou: leia as últimas linhas acima e rode make de novo; o que já foi baixado é aproveitado." >&2; exit 1; }
	@$(BIN)/jupyter labextension disable "@jupyterlab/apputils-extension:announcements" 2>/dev/null || true # não busca notícias na rede
	@touch $@
