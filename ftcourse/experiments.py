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
    ajustes, como `methods.apply` os recebe. pretrained: se parte dos pesos publicados ou de pesos sorteados. quantized:
    se a base fica em NF4. head_lr: a taxa da cabeça, onde o que se acrescenta não é um peso do modelo (tokens virtuais,
    os vetores de IA³) e a taxa procurada é só disso. shown: se entra na tabela; as outras só separam explicações.
    """

    task: str
    variant: str
    name: str
    rates: tuple[float, ...] = ()
    technique: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = True
    quantized: bool = False
    head_lr: float | None = None
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
        """As sementes do teste: cinco no BERT, três nas outras famílias; a linha de base não tem semente."""
        return tuple(range(5 if self.family == "bert" else 3)) if self.rates else (None,)

    def job(self, split: str, lr: float | None = None, steps: int | None = None, seed: int | None = None) -> dict:
        """Uma execução, como vai para o arquivo: tudo o que a identifica, e nada do que ela mede."""
        return {
            "task": self.task, "family": self.family, "variant": self.variant, "technique": self.technique,
            "settings": self.settings, "pretrained": self.pretrained, "split": split, "lr": lr,
            "steps": (steps or self.steps) if lr else None, "batch_size": BATCH if lr else None, "seed": seed,
            "quantized": self.quantized or None, "head_lr": self.head_lr,
        }  # fmt: skip


FULL, RANDOM, HEAD = "ajuste completo", "ajuste completo, pesos sorteados", "só a cabeça, modelo congelado"
HEAD_LR = 2e-3  # a melhor de quem só treina a cabeça


def lora(
    task: str, variant: str, r: int, lora_alpha: float, rates: tuple[float, ...], technique: str = "lora",
    name: str = "LoRA", **options: Any,
) -> Experiment:  # fmt: skip
    """Uma experiência com LoRA, ou com uma parente dela, com o nome que sai dos seus ajustes."""
    settings = {"r": r, "lora_alpha": lora_alpha}
    return Experiment(task, variant, f"{name}, r = {r}", rates, technique, settings, **options)


def bottleneck(task: str, technique: str, rates: tuple[float, ...]) -> Experiment:
    """Uma experiência com os adaptadores em série de Houlsby ou de Pfeiffer."""
    settings = {"reduction_factor": 16}
    return Experiment(task, technique, f"{technique.title()}, d/m = 16", rates, technique, settings)


def virtual(task: str, technique: str, rates: tuple[float, ...], head_lr: float | None = None) -> Experiment:
    """Uma experiência com tokens virtuais, *prompt* ou *prefix tuning*."""
    settings = {"num_virtual_tokens": 20}
    return Experiment(task, technique, f"{technique} tuning, p = 20", rates, technique, settings, head_lr=head_lr)


def generators(task: str) -> tuple[Experiment, ...]:
    """As técnicas que o LLaMA e o T5 comparam: não há cabeça a treinar e, em vez de BitFit, o que faz as vezes dele."""
    new_bias, norm = ({"trains": trained} for trained in ("new_bias", "norm"))
    return (
        virtual(task, "prompt", (5e-2, 1e-1, 2e-1)),
        virtual(task, "prefix", (2e-2, 5e-2, 1e-1)),
        Experiment(task, "norm", "só as normas, em vez de BitFit", (2e-3, 5e-3, 1e-2), "bitfit", norm),
        Experiment(task, "new_bias", "vieses novos, em vez de BitFit", (2e-3, 5e-3, 1e-2), "bitfit", new_bias),
        Experiment(task, "ia3", "IA³", (5e-3, 1e-2, 2e-2), "ia3"),
        bottleneck(task, "pfeiffer", (2e-3, 5e-3, 1e-2)),
        lora(task, "qlora", 8, 16, (2e-3, 5e-3, 1e-2), name="QLoRA", quantized=True),
        lora(task, "lora", 8, 16, (2e-3, 5e-3, 1e-2)),
    )


BERT, LLAMA, T5 = "aceitabilidade", "habilidade_bncc", "complete"
EXPERIMENTS = (
    Experiment(BERT, "majority", "classe majoritária"),
    Experiment(BERT, "tfidf", "TF-IDF e regressão logística"),
    Experiment(BERT, "random", RANDOM, (5e-5, 1e-4, 2e-4), "full", pretrained=False),
    Experiment(BERT, "without_labels", "excesso de espanto, só o corte usa rótulos"),
    Experiment(BERT, "head", HEAD, (5e-4, 1e-3, 2e-3), "head"),
    virtual(BERT, "prompt", (5e-2, 1e-1, 2e-1), HEAD_LR),
    virtual(BERT, "prefix", (1e-2, 2e-2, 5e-2), HEAD_LR),
    Experiment(BERT, "bitfit", "BitFit", (1e-3, 2e-3, 5e-3), "bitfit"),
    Experiment(BERT, "ia3", "IA³", (5e-3, 1e-2, 2e-2), "ia3", head_lr=HEAD_LR),
    bottleneck(BERT, "pfeiffer", (1e-3, 2e-3, 5e-3)),
    bottleneck(BERT, "houlsby", (1e-3, 2e-3, 5e-3)),
    lora(BERT, "lora_r1", 1, 2, (1e-3, 2e-3, 5e-3)),
    lora(BERT, "pissa", 8, 16, (2e-4, 5e-4, 1e-3), "pissa", "PiSSA"),
    lora(BERT, "dora", 8, 16, (5e-4, 1e-3, 2e-3), "dora", "DoRA"),
    lora(BERT, "qlora", 8, 16, (5e-4, 1e-3, 2e-3), name="QLoRA", quantized=True),
    lora(BERT, "lora", 8, 16, (1e-3, 2e-3, 5e-3)),
    Experiment(BERT, "full", FULL, (2e-4, 5e-4, 1e-3), "full"),
    lora(BERT, "lora_r64", 64, 16, (), shown=False),
    *(
        Experiment(task, baseline.__name__, baselines.NAMES[baseline.__name__])
        for task in tasks.WRITTEN
        for baseline in baselines.BASELINES[task]
    ),
    *(Experiment(task, "zero_shot", "o modelo pré-treinado, sem ajuste") for task in tasks.WRITTEN),
    Experiment(LLAMA, "random", RANDOM, (1e-3,), "full", pretrained=False),
    *generators(LLAMA),
    Experiment(LLAMA, "full", FULL, (2e-4, 5e-4, 1e-3), "full"),
    Experiment(T5, "random", RANDOM, (2e-4, 5e-4, 1e-3), "full", pretrained=False),
    *generators(T5),
    Experiment(T5, "full", FULL, (5e-4, 1e-3, 2e-3), "full"),
    Experiment("corrija", "full", FULL, (1e-3,), "full"),
    Experiment("acentue", "full", FULL, (1e-3,), "full"),
)
# Os treinos que separam explicações, em aceitabilidade, na validação e com uma semente só: (variante, taxa de quem,
# quantas vezes os passos).
EXPLANATIONS = (("full", "full", 2), ("lora", "lora", 2), ("lora_r64", "lora", 1))


COMPARED = (BERT, LLAMA, T5)  # as tarefas em que se comparam as técnicas, uma por família


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
