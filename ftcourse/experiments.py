"""O que se compara: uma experiência por linha das tabelas, com a técnica, a família, as taxas de partida e as sementes.

    experiments.of("aceitabilidade")                    # as experiências de uma tarefa, na ordem da tabela
    experiments.get("aceitabilidade", "lora").name      # "LoRA, r = 8"

Aqui nada roda: `benchmark` roda o que está escrito aqui, `results` lê o que saiu, `costs` mede tempo e memória.
"""

from dataclasses import dataclass, field
from typing import Any

from ftcourse import baselines, tasks
from ftcourse.files import choose

BATCH = 32
FAMILY = {
    "aceitabilidade": "bert", "habilidade_bncc": "llama", "complete": "t5", "corrija": "t5", "acentue": "t5",
}  # fmt: skip
STEPS = {  # por execução: umas três épocas, seis, uma e meia; nas outras duas tarefas, o que cabe em seis minutos
    "aceitabilidade": 1_350, "habilidade_bncc": 150, "complete": 262, "corrija": 220, "acentue": 220,
}  # fmt: skip
MEASURES = {  # as duas da tabela; a primeira é a da figura e a do intervalo
    "aceitabilidade": ("accuracy", "mcc"), "habilidade_bncc": ("chrf", "loss"), "corrija": ("exact", "mended"),
    "acentue": ("exact", "accented"), "complete": ("exact", "loss"),
}  # fmt: skip
THREE = {"ajuda": "ajuda", "noticias": "notícias", "curriculo": "currículo, fora do domínio"}
SOURCES = dict.fromkeys(FAMILY, THREE) | {"habilidade_bncc": {"bncc": "BNCC"}}
PROBE_STEPS = 20  # um treino curto, que um teste repete e compara com o gravado


@dataclass(frozen=True)
class Experiment:
    """Uma linha de uma tabela. Sem taxas (`rates`), é uma linha de base, que não treina.

    rates: as taxas por que a busca na validação começa; uma só não se procura. technique, settings: a técnica e os seus
    ajustes, como `methods.apply` os recebe. pretrained: se parte dos pesos publicados ou de pesos sorteados. shown: se
    entra na tabela; as outras só separam explicações.
    """

    task: str
    variant: str
    name: str
    rates: tuple[float, ...] = ()
    technique: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    shown: bool = True

    @property
    def family(self) -> str:
        return FAMILY[self.task]

    @property
    def uses_model(self) -> bool:
        """Se parte dos pesos de um modelo: o que treina, e as duas linhas de base que só o leem."""
        return self.technique is not None or self.variant in ("zero_shot", "without_labels")

    @property
    def steps(self) -> int | None:
        return STEPS[self.task] if self.rates else None

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """As sementes do teste: cinco em BERT, três nas outras famílias; a linha de base não tem semente."""
        return tuple(range(5 if self.family == "bert" else 3)) if self.rates else (None,)

    def job(self, split: str, lr: float | None = None, steps: int | None = None, seed: int | None = None) -> dict:
        """Uma execução, como vai para o arquivo: tudo o que a identifica, e nada do que ela mede."""
        return {
            "task": self.task, "family": self.family, "variant": self.variant, "technique": self.technique,
            "settings": self.settings, "pretrained": self.pretrained, "split": split, "lr": lr,
            "steps": (steps or self.steps) if lr else None, "batch_size": BATCH if lr else None, "seed": seed,
        }  # fmt: skip


FULL, RANDOM, HEAD = "ajuste completo", "ajuste completo, pesos sorteados", "só a cabeça, modelo congelado"


def lora(
    task: str, variant: str, r: int, lora_alpha: float, rates: tuple[float, ...], shown: bool = True
) -> Experiment:
    """Uma experiência com LoRA, com o nome que sai dos seus ajustes."""
    name = f"LoRA, r = {r}" if shown else f"LoRA, r = {r}, α = {lora_alpha}"
    return Experiment(task, variant, name, rates, "lora", {"r": r, "lora_alpha": lora_alpha}, shown=shown)


BERT, LLAMA, T5 = "aceitabilidade", "habilidade_bncc", "complete"
EXPERIMENTS = (
    Experiment(BERT, "majority", "classe majoritária"),
    Experiment(BERT, "tfidf", "TF-IDF e regressão logística"),
    Experiment(BERT, "random", RANDOM, (5e-5, 1e-4, 2e-4), "full", pretrained=False),
    Experiment(BERT, "head", HEAD, (5e-4, 1e-3, 2e-3), "head"),
    Experiment(BERT, "without_labels", "excesso de espanto, só o corte usa rótulos"),
    lora(BERT, "lora_r1", 1, 2, (1e-3, 2e-3, 5e-3)),
    lora(BERT, "lora", 8, 16, (1e-3, 2e-3, 5e-3)),
    Experiment(BERT, "full", FULL, (2e-4, 5e-4, 1e-3), "full"),
    lora(BERT, "lora_r1_a16", 1, 16, (), shown=False),
    lora(BERT, "lora_r64", 64, 16, (), shown=False),
    lora(BERT, "lora_r64_a128", 64, 128, (), shown=False),
    *(
        Experiment(task, baseline.__name__, baselines.NAMES[baseline.__name__])
        for task in tasks.WRITTEN
        for baseline in baselines.BASELINES[task]
    ),
    *(Experiment(task, "zero_shot", "o modelo pré-treinado, sem ajuste") for task in tasks.WRITTEN),
    Experiment(LLAMA, "random", RANDOM, (1e-3,), "full", pretrained=False),
    lora(LLAMA, "lora", 8, 16, (2e-3, 5e-3, 1e-2)),
    Experiment(LLAMA, "full", FULL, (2e-4, 5e-4, 1e-3), "full"),
    Experiment(T5, "random", RANDOM, (2e-4, 5e-4, 1e-3), "full", pretrained=False),
    lora(T5, "lora", 8, 16, (2e-3, 5e-3, 1e-2)),
    Experiment(T5, "full", FULL, (5e-4, 1e-3, 2e-3), "full"),
    Experiment("corrija", "full", FULL, (1e-3,), "full"),
    Experiment("acentue", "full", FULL, (1e-3,), "full"),
)
# Os treinos que separam explicações, em aceitabilidade, na validação e com uma semente só: (variante, taxa de quem,
# quantas vezes os passos).
EXPLANATIONS = (
    ("full", "full", 2), ("lora", "lora", 2), ("lora_r64", "lora", 1), ("lora_r64_a128", "lora", 1),
    ("lora_r1", "lora", 1), ("lora_r1_a16", "lora", 1),
)  # fmt: skip


def of(task: str) -> tuple[Experiment, ...]:
    """As experiências que a tabela de uma tarefa mostra, na ordem dela."""
    choose("a tarefa da comparação,", task, FAMILY)
    return tuple(e for e in EXPERIMENTS if e.task == task and e.shown)


def get(task: str, variant: str) -> Experiment:
    """Uma experiência, pela tarefa e pelo nome curto. Levanta ValueError se não há uma com esse nome."""
    known = {e.variant: e for e in EXPERIMENTS if e.task == task}
    return known[choose(f"a experiência de {task!r}", variant, known)]


def names(task: str) -> dict[str, str]:
    """{nome curto: o da tabela}, na ordem dela."""
    return {e.variant: e.name for e in of(task)}
