"""O que se faz com um caderno: executá-lo no lugar, achar os exercícios e as soluções, ensaiá-lo célula a célula.

python tests/notebook_tools.py notebooks/00_comece_aqui.ipynb     # executa e grava, pronto para o commit
"""

import functools
import hashlib
import os
import re
import sys
from pathlib import Path

import nbclient
import nbformat

from ftcourse.files import atomic_write

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<details>\s*<summary>Solução</summary>(.*?)</details>", re.S)
WIDGET = "application/vnd.jupyter.widget-view+json"  # uma barra de progresso
SHORTER = {
    r"\bsteps=\d{3,}": "steps=20",
    r"\bsteps=[2-9]\d\b": "steps=10",
    r"batch_size=\d+": "batch_size=4",
    r"repeats=\d+": "repeats=2",
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


def run(notebook, folder, allow_errors=False):
    """Executa o caderno num kernel novo, a partir de `folder`, e o devolve com as saídas."""
    os.environ["TQDM_DISABLE"] = "1"  # o kernel herda
    options = {"timeout": 300, "kernel_name": "python3", "record_timing": False, "allow_errors": allow_errors}
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


def rehearsal(notebook):
    """O caderno de ensaio: cada célula, encurtada, duas vezes; cada exercício como está, sob rigor e, duas vezes,
    resolvido.

    O papel de cada célula fica em metadata["papel"]; a posição da original, em metadata["original"].
    """
    cells = []
    for cell in code_cells(notebook):
        if "nbval-skip" in tags(cell):
            continue
        short = shortened(cell.source)
        parts = [("célula", short), ("de novo", short)]
        if "exercicio" in tags(cell):
            solved = solution(notebook, cell)
            parts = [("esboço", rigor(0) + cell.source), ("rigor", rigor(1) + cell.source)]
            parts += [("solução", rigor(1) + solved), ("de novo", rigor(1) + solved)]
        for role, source in parts:
            metadata = {"papel": role, "original": notebook.cells.index(cell), "tags": list(tags(cell))}
            cells.append(nbformat.v4.new_code_cell(source, metadata=metadata))
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


def rigor(on):
    return f'__import__("os").environ["FTCOURSE_RIGOR"] = "{on}"\n'


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
