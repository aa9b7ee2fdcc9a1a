"""As famílias de modelos: os embutidos no curso, ou maiores, ou o seu, conferidos e prontos para uma tarefa.

model, tokenizer = models.load("bert")          # o modelo pré-treinado, com a cabeça do pré-treino
model, tokenizer = models.load("bert", task)    # com a cabeça que a tarefa pede, sorteada
model, tokenizer = models.load("bert", task, profile="colab")         # um maior, do Hub: ver PROFILES
model, tokenizer = models.load("bert", task, profile="minha-pasta")   # o seu, ou "org/nome", ou "org/nome@revisão"
"""

import hashlib
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers

from ftcourse import hub, model_folder
from ftcourse.files import DATA, check_sums, choose

if TYPE_CHECKING:
    from ftcourse.tasks import Task


@dataclass(frozen=True)
class Family:
    """Uma família: a pasta do modelo embutido e as classes de transformers, a do pré-treino e a de classificar."""

    folder: str
    pretraining_class: str
    task_class: str


@dataclass(frozen=True)
class Profile:
    """De onde vêm os pesos, {família: "org/nome@revisão"}, e o lote e a precisão do treino que lhes servem."""

    models: dict[str, str] = field(default_factory=dict)
    batch_size: int = 32
    precision: str = "float32"


FAMILIES = {
    "bert": Family("mini-bert-pt", "AutoModelForMaskedLM", "AutoModelForSequenceClassification"),
    "llama": Family("mini-llama-pt", "AutoModelForCausalLM", "AutoModelForSequenceClassification"),
    "t5": Family("mini-t5-pt", "AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification"),
}
# O padrão pode ser trocado em FTCOURSE_PERFIL. Pelas páginas do Hub, cada revisão tem os pesos em safetensors; daqui
# nenhuma foi baixada ainda. Os dois BERT e ptt5-v2-large não os têm no ramo main: são os pedidos do robô que converte,
# refs/pr/5 e refs/pr/1, os dois primeiros pelo commit.
PROFILES = {
    "embutido": Profile(),
    "colab": Profile(
        {
            "bert": "neuralmind/bert-base-portuguese-cased@4a78cfbf83c9c97533dd6d6694ca4323029ff061",
            "llama": "TucanoBR/Tucano-630m@0449a5ce79b398da1cf2d0d9d1758d76d2d63ae3",
            "t5": "unicamp-dl/ptt5-base-portuguese-vocab@7792909581f95c602fa63807d42411a0254cc055",
        },
        batch_size=16,
    ),
    "gpu": Profile(
        {
            "bert": "neuralmind/bert-large-portuguese-cased@e5d64c5ebca2741c7cedf952a24ebc2c34462e60",
            "llama": "TucanoBR/Tucano-2b4@5a9b2c037de48aa25e952e3d6f86408058d9e3a2",
            "t5": "unicamp-dl/ptt5-v2-large@refs/pr/1",
        },
    ),
}


def load(
    family: str,
    task: "Task | None" = None,
    *,
    profile: str | Path | None = None,
    pretrained: bool = True,
    seed: int = 0,
) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    """Carrega (model, tokenizer) de uma família, com pesos em float32 e em modo de avaliação.

    task: a tarefa cuja cabeça o modelo deve ter; sem ela, ou se é de escrever, vem a do pré-treino. O que este não
    cobre (a cabeça e, no BERT, o *pooler*) é sorteado com `seed`, sem mexer no gerador global. Com `pretrained=False`
    todos os pesos são sorteados: a comparação que mostra quanto vale o pré-treino. profile: um nome de PROFILES, uma
    pasta, ou um modelo do Hub; os que não são do curso vão para a GPU, se há uma. Uma cabeça que veio do arquivo, ou
    que não serve à tarefa, é avisada com `warnings`.

    Levanta ValueError se a família ou o perfil não existe ou se o modelo é de outra arquitetura, FileNotFoundError se
    falta um arquivo, OSError se algum está cortado ou alterado, e o que `hub.fetch` levanta.
    """
    chosen = FAMILIES[choose("a família", family, FAMILIES)]
    settings, folder = locate(family, known_profile(profile))
    labels = () if task is None else task.labels
    auto = getattr(transformers, chosen.task_class if labels else chosen.pretraining_class)
    head = {"id2label": dict(enumerate(labels)), "problem_type": None} if labels else {}
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, **head)
    with torch.random.fork_rng(), model_folder.quiet():
        torch.manual_seed(seed)
        if pretrained:
            model, info = auto.from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, ignore_mismatched_sizes=True,
                output_loading_info=True, trust_remote_code=False,
            )  # fmt: skip
            model_folder.check_weights(model, info, folder)
        else:
            model = auto.from_config(config, dtype=torch.float32)
    tokenizer = model_folder.load_tokenizer(folder, model.config)
    model.profile = settings
    if settings.precision != "float32":  # só há outra onde há GPU
        model = model.to("cuda")
    return model.eval(), tokenizer


def known_profile(profile: str | Path | None = None) -> str | Path:
    """O perfil que vale: o que se pediu, o de FTCOURSE_PERFIL ou "embutido". Não usa a rede.

    Levanta ValueError, com os que existem, se não é um deles, nem uma pasta, nem tem a forma de um nome do Hub.
    """
    chosen = profile or os.environ.get("FTCOURSE_PERFIL") or "embutido"
    if Path(str(chosen)).expanduser().is_dir() or hub.NAME.fullmatch(str(chosen)):
        return chosen
    whence = "" if profile else " Ele veio da variável de ambiente FTCOURSE_PERFIL: corrija-a ou apague-a."
    try:
        return choose("o perfil", chosen, PROFILES)
    except ValueError as error:
        raise ValueError(
            f"{error}{whence} Aqui também não há uma pasta com esse nome, e um modelo do Hub se escreve 'org/nome' ou "
            "'org/nome@revisão'."
        ) from None


def locate(family: str, profile: str | Path) -> tuple[Profile, Path]:
    """(Profile, pasta): de onde vêm os pesos de uma família num perfil, ou na pasta ou no nome do Hub que se deu."""
    if profile == "embutido":
        folder = DATA / "modelos" / FAMILIES[family].folder
        check_sums(folder)
        return PROFILES["embutido"], folder
    folder = Path(str(profile)).expanduser()
    if profile in [*PROFILES]:
        settings = PROFILES[str(profile)]
        folder = hub.fetch(settings.models[family], family)
    elif folder.is_dir():
        settings = Profile()
    else:
        settings, folder = Profile(batch_size=16), hub.fetch(str(profile), family)
    model_folder.check_folder(folder, family)
    return replace(settings, precision=precision()), folder


def precision() -> str:
    """O tipo em que a GPU multiplica: bfloat16 se ela o tem de verdade, float16 se não (uma T4); na CPU, float32."""
    if not torch.cuda.is_available():
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def digest(family: str) -> str:
    """O resumo do modelo embutido de uma família, em 12 dígitos: pesos, configuração e vocabulário, sem o cartão."""
    folder = DATA / "modelos" / FAMILIES[choose("a família", family, FAMILIES)].folder
    published = (folder / "sha256sums.txt").read_text(encoding="utf-8").splitlines()
    counted = sorted(line for line in published if line.endswith((".safetensors", "config.json", "tokenizer.json")))
    return hashlib.sha256("\n".join(counted).encode()).hexdigest()[:12]
