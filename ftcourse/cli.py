"""A linha de comando do curso.

ftcourse aluno [PASTA]     copia os cadernos, sem saídas, para PASTA (padrão: meus-cadernos); não toca nos que já há
ftcourse previsoes PASTA   junta as previsões de uma turma, os CSV que estão em PASTA, e mostra cada uma em barras
ftcourse ambiente          diz o que está instalado e se o curso roda aqui
ftcourse verifica 00.2 R   confere a resposta R de um exercício
ftcourse memoria MODELO    diz quanta memória um treino pede, se cabe numa placa e, se não, o que caberia; por exemplo,
                           ftcourse memoria llama-7b --tecnica qlora --lote 1 --comprimento 512 --placa 16GB
"""

import argparse
import ast
import json
import sys
from pathlib import Path
from typing import Any

from ftcourse.console import never_raise, say
from ftcourse.files import PACKAGE, atomic_write


def student(folder: Path) -> None:
    """Copia os cadernos do clone que ainda não estão em `folder`. Levanta FileNotFoundError fora de um clone."""
    source = PACKAGE.parent / "notebooks"
    notebooks = sorted(source.glob("*.ipynb"))
    if not notebooks:
        raise FileNotFoundError(
            f"Não há cadernos em {source}. Eles vêm com o repositório, não com o pacote: clone o repositório e rode "
            "make aula nele."
        )
    new = [notebook for notebook in notebooks if not (folder / notebook.name).exists()]
    for notebook in new:
        with atomic_write(folder / notebook.name) as file:  # um caderno pela metade nunca mais seria copiado
            file.write(blank(notebook.read_text(encoding="utf-8")).encode())
    kept = len(notebooks) - len(new)
    say(f"Cadernos copiados para {folder}: {len(new)}. Já estavam lá e ficaram como estão: {kept}.")


def blank(notebook: str) -> str:
    """O caderno sem as saídas: com elas, a resposta de cada "Preveja" estaria na tela."""
    content = json.loads(notebook)
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def answer(text: str) -> object:
    """O valor que o texto representa em Python, como número, lista ou tupla; senão, o próprio texto."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def plan(args: argparse.Namespace) -> str:
    """O que `memory` responde ao que se pediu na linha de comando. Levanta ValueError se o pedido não faz sentido."""
    from ftcourse import formats, memory

    capacity = memory.card(args.placa) if args.placa else None
    settings: dict[str, Any] = {name: answer(value) for name, _, value in (p.partition("=") for p in args.ajuste)}
    asked = {"precision": args.precisao, "optimizer": args.otimizador, "batch": args.lote, "length": args.comprimento,
             "padding": args.mascara, "checkpointing": args.checkpointing, "devices": args.placas,
             "sharding": args.divisao, "labels": args.classes}  # fmt: skip
    made = memory.plan(args.modelo, args.tecnica, **(settings | asked))
    table = formats.table(made.table(), digits=2).to_string()
    return f"{made.name}\n{table}" + (f"\n{memory.advise(made, capacity)}" if capacity else "")


def main() -> None:
    never_raise()
    parser = argparse.ArgumentParser(
        "ftcourse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERBO")
    verbs.add_parser("aluno").add_argument("folder", nargs="?", type=Path, default=Path("meus-cadernos"))
    verbs.add_parser("previsoes").add_argument("folder", type=Path)
    verbs.add_parser("ambiente")
    check = verbs.add_parser("verifica")
    check.add_argument("exercise")
    check.add_argument("answer", type=answer)
    needs = verbs.add_parser("memoria")
    needs.add_argument("modelo", help="um nome, como llama-7b, uma pasta ou um config.json")
    needs.add_argument("--tecnica", default="lora")
    needs.add_argument("--ajuste", action="append", default=[], metavar="r=16", help="um ajuste da técnica")
    needs.add_argument("--precisao", default="bfloat16", help="bfloat16, autocast ou float32")
    needs.add_argument("--otimizador", default="adamw")
    needs.add_argument("--lote", type=answer, default=1)
    needs.add_argument("--comprimento", type=answer, default=512)
    needs.add_argument("--mascara", action="store_true", help="se os textos do lote têm tamanhos diferentes")
    needs.add_argument("--checkpointing", action="store_true")
    needs.add_argument("--placa", help="16GB, ou um nome, como T4")
    needs.add_argument("--placas", type=answer, default=1, help="quantas")
    needs.add_argument("--divisao", default="ddp", help="ddp, zero1, zero2, zero3 ou fsdp")
    needs.add_argument("--classes", type=answer, help="quantas, se a tarefa é classificar")
    args = parser.parse_args()
    if args.verb == "aluno":
        try:
            student(args.folder)
        except OSError as error:
            sys.exit(str(error))
    elif args.verb == "previsoes":
        from ftcourse import predictions

        if not (found := predictions.gather(args.folder)):
            sys.exit(f"Em {args.folder} não há previsões: são os previsoes.csv que os cadernos gravam.")
        for question, given in found.items():
            say(f"{question}: {len(given)} previsões\n{predictions.histogram(given)}")
    elif args.verb == "memoria":
        try:
            say(plan(args))
        except (ValueError, OSError) as error:
            sys.exit(str(error))
    elif args.verb == "ambiente":
        from ftcourse import environment

        print(environment.report())
    else:
        from ftcourse import verifica

        verifica(args.exercise, args.answer)


if __name__ == "__main__":
    main()
