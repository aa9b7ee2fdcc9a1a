"""Quanto a perda do pré-treino sobe quando se soma um erro aos pesos, janela por janela de um texto que ninguém viu.

probe = perturbation.Probe("bert", windows=64)
E = {name: quantized(W) - W for name, W in probe.weights.items()}
probe.rise(E).mean()                              # em nats: quanto sobe
perturbation.relative(E, probe.weights)           # ‖E‖/‖W‖, de todas as matrizes juntas

BERT    adivinha 7 tokens escondidos em cada janela de 48
LLaMA   adivinha cada token, dados os anteriores
T5      adivinha dois trechos, de 3 e de 4 tokens, de que só ficou a sentinela
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerBase

from ftcourse import models, modules, tasks
from ftcourse.task import IGNORED

LENGTH = 48  # tokens de uma janela
Errors = Mapping[str, torch.Tensor]  # {nome da matriz: o que se soma a ela}
Batch = tuple[dict[str, torch.Tensor], torch.Tensor]  # o que o modelo recebe, e os rótulos


class Probe:
    """Um modelo pré-treinado, as matrizes que se quantizam nele e janelas dos parágrafos de data/texto_geral.

    weights: {nome: W}, das lineares, menos a da saída. base: a perda de cada janela, (windows,), sem erro algum. Os
    sorteios do que se esconde são fixos.
    """

    def __init__(self, family: str, windows: int = 64):
        self.model, tokenizer = models.load(family)
        self.weights = {name: layer.weight.detach() for name, layer in modules.find(self.model, "all-linear").items()}
        paragraphs = list(tasks.general_text().test.shuffle(seed=0)["target"])
        rows = tokenizer(paragraphs, truncation=True, max_length=LENGTH)["input_ids"]
        ids = torch.tensor([row for row in rows if len(row) == LENGTH])  # (n, 48)
        prepare, device = PREPARE[family], self.model.device
        self.batches = [prepare(tokenizer, part, device) for part in ids[:windows].split(32)]
        self.others = prepare(tokenizer, ids[windows : windows + 16], device)  # parágrafos que losses não mede
        self.base = self.losses({})

    def losses(self, errors: Errors) -> torch.Tensor:
        """A perda de cada janela com os erros somados aos pesos, (windows,), em nats. O modelo fica como estava."""
        with torch.no_grad():
            return torch.cat([self._losses(errors, *batch) for batch in self.batches]).cpu()

    def rise(self, errors: Errors) -> torch.Tensor:
        """Quanto a perda de cada janela sobe, (windows,), em nats."""
        return self.losses(errors) - self.base

    def gradient(self) -> dict[str, torch.Tensor]:
        """O gradiente da perda em relação a cada matriz, nos parágrafos que `losses` não mede."""
        zeros = {name: torch.zeros_like(weight, requires_grad=True) for name, weight in self.weights.items()}
        loss = self._losses(zeros, *self.others).mean()
        return dict(zip(zeros, torch.autograd.grad(loss, list(zeros.values()))))

    def _losses(self, errors: Errors, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        changed = {f"{name}.weight": self.weights[name] + error for name, error in errors.items()}
        logits = torch.func.functional_call(self.model, changed, kwargs=inputs).logits
        each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        return each.sum(1) / (labels != IGNORED).sum(1)


def relative(errors: Errors, weights: Errors) -> float:
    """O erro relativo, ‖E‖/‖W‖, de todas as matrizes juntas."""
    return (squared(errors) / squared(weights)) ** 0.5


def squared(matrices: Errors) -> float:
    """A soma dos quadrados de todos os números."""
    return sum(float(matrix.square().sum()) for matrix in matrices.values())


def noise(like: Errors, seed: int) -> dict[str, torch.Tensor]:
    """Ruído normal que tem, em cada matriz, a norma do erro que veio."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(error.shape, generator=generator).to(error) for name, error in like.items()}
    return {name: of_size(direction, like[name]) for name, direction in drawn.items()}


def of_size(direction: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A direção que veio, com a norma da outra matriz."""
    return direction * like.norm() / direction.norm()


# ---------------------------------------------------------------- o que cada família adivinha


def masked(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor, device: torch.device) -> Batch:
    inside = ids.shape[1] - 2  # sem [CLS] e [SEP]
    chosen = torch.rand(len(ids), inside, generator=torch.Generator().manual_seed(0)).argsort(1)[:, :7] + 1
    labels = torch.full_like(ids, IGNORED).scatter(1, chosen, ids.gather(1, chosen))
    return {"input_ids": ids.scatter(1, chosen, tokenizer.mask_token_id).to(device)}, labels.to(device)


def continued(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor, device: torch.device) -> Batch:
    return {"input_ids": ids[:, :-1].to(device)}, ids[:, 1:].to(device)


def spans(tokenizer: PreTrainedTokenizerBase, ids: torch.Tensor, device: torch.device) -> Batch:
    first, second, end = tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_1>", "</s>"])
    starts = torch.randint(1, 20, (len(ids), 2), generator=torch.Generator().manual_seed(0)) + torch.tensor([0, 23])
    sources, targets = [], []
    for row, (a, b) in zip(ids.tolist(), starts.tolist()):
        sources.append([*row[:a], first, *row[a + 3 : b], second, *row[b + 4 :]])
        targets.append([first, *row[a : a + 3], second, *row[b : b + 4], end])
    labels = torch.tensor(targets)
    read = {"input_ids": torch.tensor(sources), "decoder_input_ids": F.pad(labels, (1, 0))[:, :-1]}
    return {name: tensor.to(device) for name, tensor in read.items()}, labels.to(device)


PREPARE = {"bert": masked, "llama": continued, "t5": spans}
