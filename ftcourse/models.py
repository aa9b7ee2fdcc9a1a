"""As famílias de modelos: os embutidos no curso, conferidos e prontos para uma tarefa.

model, tokenizer = models.load("bert")          # o modelo pré-treinado, com a cabeça do pré-treino
model, tokenizer = models.load("bert", task)    # com a cabeça que a tarefa pede, sorteada
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import transformers

from ftcourse import modules
from ftcourse.files import DATA, check, choose


@dataclass(frozen=True)
class Family:
    """Uma família: a pasta do modelo embutido e as classes de transformers, a do pré-treino e a da tarefa."""

    folder: str
    pretraining_class: str
    task_class: str


FAMILIES = {
    "bert": Family("mini-bert-pt", "AutoModelForMaskedLM", "AutoModelForSequenceClassification"),
}
PROFILES = ("embutido",)  # de onde vêm os pesos; o padrão pode ser trocado em FTCOURSE_PERFIL


def load(family, task=None, *, profile=None, pretrained=True, seed=0):
    """Carrega (model, tokenizer) de uma família, com pesos em float32 e em modo de avaliação.

    task: a tarefa cuja cabeça o modelo deve ter; sem ela, vem a do pré-treino. O que o pré-treino não cobre (a cabeça
    e, em BERT, o *pooler*) é sorteado com `seed`, sem mexer no gerador global. Com `pretrained=False` todos os pesos
    são sorteados: a comparação que mostra quanto vale o pré-treino.

    Levanta ValueError se a família ou o perfil não existe, FileNotFoundError se falta um arquivo e OSError se algum
    está diferente do publicado.
    """
    chosen = FAMILIES[choose("a família", family, FAMILIES)]
    choose("o perfil", profile or os.environ.get("FTCOURSE_PERFIL") or PROFILES[0], PROFILES)
    folder = DATA / "modelos" / chosen.folder
    check(folder)
    auto = getattr(transformers, chosen.task_class if task else chosen.pretraining_class)
    labels = {"id2label": dict(enumerate(task.labels))} if task and task.labels else {}
    config = transformers.AutoConfig.from_pretrained(folder, **labels)
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        if pretrained:
            model, info = auto.from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
            drawn = tuple(f"{name}." for name in modules.head(model))
            if lost := [name for name in info["missing_keys"] if not name.startswith(drawn)]:
                raise OSError(
                    f"Os pesos de {folder} não têm {', '.join(sorted(lost)[:3])}: o arquivo não é deste modelo."
                )
        else:
            model = auto.from_config(config, dtype=torch.float32)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return model.eval(), tokenizer


@contextmanager
def quiet():
    """Cala o relatório de carga e as barras de transformers: o que falta e o que sobra é conferido aqui."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
