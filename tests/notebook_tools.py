"""O que se faz com um caderno: executá-lo no lugar, achar os exercícios e as soluções, ensaiá-lo célula a célula.

python tests/notebook_tools.py notebooks/00_comece_aqui.ipynb     # executa e grava, pronto para o commit
"""

import functools
import hashlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat
import torch
import transformers

from ftcourse import models
from ftcourse.files import DATA, atomic_write

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<details>\s*<summary>Solução</summary>(.*?)</details>", re.S)
WIDGET = "application/vnd.jupyter.widget-view+json"  # uma barra de progresso
SHORTER = {
    r"\bsteps=[2-9]\d\b": "steps=4",
    r"\bsteps=\d{3,}": "steps=20",
    r"batch_size=\d+": "batch_size=4",
    r"repeats=\d+": "repeats=2",
    r"windows=\d+": "windows=4",
    r"select\(range\(\d{3}\)\)": "select(range(40))",
    r"tqdm\(range\(\d+\)": "tqdm(range(3)",
}
FENCE = re.compile(r"^```python\n(.*?)^```", re.S | re.M)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def fingerprint(cell):
    """O resumo da fonte de uma célula, que diz se as saídas gravadas são dela."""
    return hashlib.sha256(cell.source.encode()).hexdigest()[:12]


def text(cell):
    """O que a célula escreveu: saídas de texto, valores e erros. As barras de progresso não contam."""
    outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
    parts = [o.get("text") or o.get("data", {}).get("text/plain", o.get("evalue", "")) + "\n" for o in outputs]
    return "".join(parts)  # o mesmo print pode vir em um pedaço ou em dois


def seen(cell):
    """O que a célula mostrou: o texto e as imagens. Os avisos não contam: Python dá cada um uma vez só."""
    shown = nbformat.v4.new_code_cell(outputs=[o for o in cell.outputs if o.get("name") != "stderr"])
    return text(shown), [o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {})]


def run(notebook, folder, allow_errors=False):
    """Executa o caderno num kernel novo, a partir de `folder`, e o devolve com as saídas."""
    os.environ["TQDM_DISABLE"] = "1"  # o kernel herda
    options = {"timeout": 300, "kernel_name": "python3", "record_timing": False, "allow_errors": allow_errors}
    options["iopub_timeout"] = 60  # numa máquina ocupada as saídas chegam tarde, e nbclient as perderia sem um aviso
    return nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **options).execute()


def execute(path):
    """Executa um caderno no lugar e grava saídas e o resumo de cada célula. Se uma célula falha, nada muda."""
    notebook = run(read(path), path.parent)
    notebook.metadata.pop("widgets", None)  # com eles o GitHub não mostra o caderno, e sem eles as barras são só texto
    notebook.metadata.language_info = {"name": "python"}  # a versão do Python de quem executou não importa
    for cell in code_cells(notebook):
        cell.outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {})]
        cell.metadata["ftcourse_sha"] = fingerprint(cell)
    with atomic_write(path) as file:
        file.write((nbformat.writes(notebook) + "\n").encode())


def solution(notebook, stub):
    """O código da solução de um exercício: o único bloco ```python do <details> antes da próxima célula de código."""
    following = notebook.cells[notebook.cells.index(stub) + 1 :]
    end = next((i for i, cell in enumerate(following) if cell.cell_type == "code"), len(following))
    found = [c for cell in following[:end] for d in SOLUTION.findall(cell.source) for c in FENCE.findall(d)]
    if len(found) != 1:
        raise ValueError(f"o exercício deve ter uma solução com um bloco ```python, e tem {len(found)}:\n{stub.source}")
    return found[0]


def shortened(source):
    """A célula com treinos curtos, lotes pequenos e médias de poucos números: inteira, é nbval que a roda."""
    for pattern, shorter in SHORTER.items():
        source = re.sub(pattern, shorter, source)
    return source


def sections(notebook):
    """A seção de cada célula de código, {posição: número}: 0 antes do primeiro título `##`, 1 depois dele."""
    found, section = {}, 0
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            found[i] = section
        else:
            section += len(re.findall(r"^## ", re.sub(r"^```.*?^```", "", cell.source, flags=re.S | re.M), re.M))
    return found


def rehearsal(notebook):
    """O caderno de ensaio, encurtado, num kernel só e com os modelos de small_models: nada conta com o tamanho dos
    embutidos, que são os de nbval. O papel de cada célula fica em metadata["papel"]:

    célula               o caderno de cima a baixo; o exercício é o "esboço", como está, o "rigor", em que o esboço
                         levanta, e a "solução"
    no fim               rodado o caderno inteiro, cada célula outra vez, da última à primeira: nenhuma usa um nome que
                         uma seção posterior trocou, nem estraga o que recebeu
    entrada              cada seção, num espaço de nomes vazio em que só rodaram as células `preparo` anteriores

    Os "reinício" entre eles esvaziam o espaço de nomes, como um kernel novo, sem importar torch outra vez. A posição da
    célula no caderno fica em metadata["original"].
    """
    part_of = {i: part for i, part in sections(notebook).items() if "nbval-skip" not in tags(notebook.cells[i])}
    cells = [nbformat.v4.new_code_cell(USE_OTHERS.format(folder=small_models().name), metadata={"papel": "reinício"})]

    def add(role, i, source):
        metadata = {"papel": role, "original": i, "tags": list(tags(notebook.cells[i]))}
        cells.append(nbformat.v4.new_code_cell(source, metadata=metadata))

    def answered(i):
        cell = notebook.cells[i]
        return rigor(1) + solution(notebook, cell) if "exercicio" in tags(cell) else shortened(cell.source)

    for i in part_of:
        if "exercicio" in tags(notebook.cells[i]):
            add("esboço", i, rigor(0) + notebook.cells[i].source)
            add("rigor", i, rigor(1) + notebook.cells[i].source)
            add("solução", i, answered(i))
        else:
            add("célula", i, answered(i))
    for i in reversed(part_of):
        add("no fim", i, answered(i))
    for section in sorted(set(part_of.values()) - {0}):
        cells.append(nbformat.v4.new_code_cell("%reset -f", metadata={"papel": "reinício"}))
        start = min(i for i in part_of if part_of[i] == section)
        for i in part_of:
            if part_of[i] == section or (i < start and "preparo" in tags(notebook.cells[i])):
                add("entrada", i, answered(i))
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


def rigor(on):
    return f'__import__("os").environ["FTCOURSE_RIGOR"] = "{on}"\n'


# No kernel do ensaio, os modelos embutidos passam a ser os da pasta; as linhas gravadas continuam as dos embutidos.
USE_OTHERS = """
import dataclasses, os
from ftcourse import models
models.digest = {{family: models.digest(family) for family in models.FAMILIES}}.get
for family, chosen in models.FAMILIES.items():
    models.FAMILIES[family] = dataclasses.replace(chosen, folder=os.path.join({folder!r}, family))
%reset -f
"""
OTHER_SIZES = {  # 192 de largura e 3 camadas, com 3 ou 6 cabeças de atenção
    "bert": {"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 6, "intermediate_size": 512},
    "llama": {"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 3,
              "intermediate_size": 512},
    "t5": {"d_model": 192, "num_layers": 3, "num_decoder_layers": 3, "num_heads": 6, "d_kv": 32, "d_ff": 512},
}  # fmt: skip


@functools.cache
def small_models():
    """Uma pasta, que some no fim do processo, com um modelo sorteado de cada família e o vocabulário do embutido."""
    made = tempfile.TemporaryDirectory()
    for family, sizes in OTHER_SIZES.items():
        source, target = DATA / "modelos" / models.FAMILIES[family].folder, Path(made.name) / family
        config = transformers.AutoConfig.from_pretrained(source, **sizes)
        torch.manual_seed(0)
        getattr(transformers, models.FAMILIES[family].pretraining_class).from_config(config).save_pretrained(target)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(source / name, target)
        sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}" for file in sorted(target.iterdir())]
        (target / "sha256sums.txt").write_text("\n".join(sums) + "\n", "utf-8")
    return made


@functools.cache
def rehearse(path):
    """As células do ensaio de um caderno, executadas; um erro não para as seguintes."""
    return run(rehearsal(read(path)), path.parent, allow_errors=True).cells


def failed(cell):
    return any(output.output_type == "error" for output in cell.outputs)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        execute(Path(name))
        print(f"{name}: executado")
