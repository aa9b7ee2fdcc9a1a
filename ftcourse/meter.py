"""O medidor: quantos bytes um passo de treino ocupa, por tipo, e o pico.

    meter.measure(model, batch)                  # um passo: pesos, gradientes, otimizador, ativações por tipo, pico
    meter.activation_bytes(model, batch)         # só o que um lote deixa guardado para a volta

      ida                                        volta                                    passo
      cada conta guarda o que a sua              cada bloco solta o que guardou           o otimizador lê gradientes
      derivada vai pedir                         e deixa os seus gradientes               e estados
      ────────────────────────────►  topo  ────────────────────────────►  fundo  ────────────►

Uma ativação conta uma vez, ainda que muitas contas a guardem: o que ocupa memória é o armazenamento (*storage*), de que
os tensores são vistas. Pesos e *buffers* não são ativações; a cópia de um peso em 16 bits, que autocast faz, é. O pico
é o máximo dos bytes vivos, somados tensor a tensor: não inclui a área que uma conta usa por dentro, nem o que o
alocador de uma GPU reserva a mais. Numa GPU, o pico que torch.cuda.max_memory_allocated() dá vem em `allocated`; esse
caminho nunca rodou numa GPU.
"""

import re
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ftcourse import modules
from ftcourse.files import choose
from ftcourse.layers import bare, chain, walk

ATTENTION, FEED_FORWARD, NORMS, ADAPTER = "atenção", "feed-forward", "normas", "adaptador"
BETWEEN, HEAD, COPIES = "embeddings e entre os blocos", "cabeça e logits", "pesos copiados em 16 bits"
KINDS = (ATTENTION, FEED_FORWARD, NORMS, ADAPTER, BETWEEN, HEAD, COPIES)
NAMES = {ATTENTION: r"attention|attn", FEED_FORWARD: r"mlp|intermediate|output|DenseReluDense|ffn|\.fc\d"}
TOP, MIDDLE, STEP = "topo", "meio", "passo"
PRECISIONS = ("float32", "bfloat16", "float16")


class AdamW8bit(torch.optim.Optimizer):
    """O lugar que o AdamW de 8 bits de bitsandbytes ocupa: por número, dois bytes, e a cada 256 deles duas escalas.

    Um tensor de menos de 4.096 números fica com os estados em float32. Aqui não há conta, só o tamanho.
    """

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> None:
        for p in (p for group in self.param_groups for p in group["params"] if not self.state[p]):
            small = p.numel() < 4096
            for moment in ("1", "2"):
                self.state[p][f"state{moment}"] = torch.zeros_like(p, dtype=torch.float32 if small else torch.uint8)
                if not small:
                    self.state[p][f"absmax{moment}"] = p.new_zeros(-(-p.numel() // 256), dtype=torch.float32)


OPTIMIZERS: dict[str, Callable] = {  # com a taxa em zero o passo faz todas as contas, e os pesos ficam como estavam
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.0, foreach=False),
    "adamw_8bit": AdamW8bit,
    "adafactor": lambda params: torch.optim.Adafactor(params, lr=0.0, foreach=False),
    "momento": lambda params: torch.optim.SGD(params, lr=0.0, momentum=0.9, foreach=False),
    "sgd": lambda params: torch.optim.SGD(params, lr=0.0, foreach=False),
}


@dataclass(frozen=True)
class Memory:
    """Os bytes de um passo de treino.

    activations: {tipo, um de KINDS: bytes}, o que a ida deixa guardado para a volta. moments: o máximo de bytes vivos
    em cada momento do passo, e quantos deles eram gradientes. allocated: numa GPU, o pico que o alocador dela viu.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: dict[str, int]
    moments: dict[str, tuple[int, int]] = field(repr=False)
    allocated: int | None = None

    @property
    def saved(self) -> int:
        """Todas as ativações."""
        return sum(self.activations.values())

    @property
    def peak(self) -> int:
        """O máximo de bytes vivos ao mesmo tempo."""
        return max(alive for alive, _ in self.moments.values())


def measure(model: nn.Module, batch: dict, optimizer: str = "adamw", precision: str = "float32") -> Memory:
    """Os bytes de um passo de treino do que tem `requires_grad`, no lote `batch`, que traz os rótulos.

    O passo é como o segundo de um treino: os estados do otimizador já existem. A taxa é zero e os pesos ficam como
    estavam; os gradientes que houver se perdem. optimizer: um nome de OPTIMIZERS. precision: "float32" são as contas no
    tipo do modelo; "bfloat16" ou "float16", com autocast. Levanta ValueError se não conhece um deles ou se nada treina.
    """
    make = OPTIMIZERS[choose("o otimizador", optimizer, OPTIMIZERS)]
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise ValueError('Neste modelo nada treina: comece por methods.apply(model, "lora").')
    updating = make(trained)
    for p in trained:
        p.grad = torch.zeros_like(p)
    updating.step()
    updating.zero_grad()
    states = [leaf for leaf in tree_leaves(list(updating.state.values())) if isinstance(leaf, torch.Tensor)]
    weights, on_gpu = [*model.parameters(), *model.buffers()], trained[0].is_cuda
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with Tracker(model, [*weights, *states, *batch.values()]) as tracker, torch.random.fork_rng():
        with autocast(model, precision), tracker.saving():
            loss = model(**batch).loss
        activations = tracker.saved()
        loss.backward()
        gradients = [p.grad for p in trained if p.grad is not None]
        tracker.enter(STEP)
        updating.step()
    allocated = torch.cuda.max_memory_allocated() if on_gpu else None
    updating.zero_grad()
    return Memory(size(weights), size(gradients), size(states), activations, tracker.moments, allocated)


def activation_bytes(model: nn.Module, batch: dict, precision: str = "float32") -> int:
    """Os bytes que um lote deixa guardados para a volta, sem os pesos. precision: ver `measure`."""
    with Tracker(model, []) as tracker, autocast(model, precision), tracker.saving():
        output = model(**batch)  # enquanto a saída vive, o que ela guardou também vive
        kept = sum(tracker.saved().values())
        del output
    return kept


def autocast(model: nn.Module, precision: str) -> torch.autocast:
    """As contas na precisão que se pede; "float32" é a do próprio modelo."""
    dtype = getattr(torch, choose("a precisão das contas", precision, PRECISIONS))
    device = next(model.parameters()).device.type
    return torch.autocast(device, torch.bfloat16 if dtype is torch.float32 else dtype, dtype is not torch.float32)


def size(tensors: Iterable[torch.Tensor]) -> int:
    """Os bytes que os tensores ocupam; o que dois compartilham conta uma vez."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


class Tracker(TorchDispatchMode):
    """Dentro do `with`, vê cada tensor que nasce e que morre, e anota o que se guarda para a volta.

    held: o que já existe e conta. Os tensores podem ser de mentira, com forma e sem números.
    """

    def __init__(self, model: nn.Module, held: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.model, self.alive, self.gradients = model, 0, 0
        self.moment = TOP
        self.moments: dict[str, tuple[int, int]] = {}  # o máximo de bytes vivos, e os que então eram gradientes
        self.path = [HEAD]  # o tipo do módulo em que se está, e os dos que o chamaram
        self.hooks: list = []
        self.known: dict[int, weakref.ref] = {}  # os armazenamentos vivos
        self.kept: dict[int, tuple[str, int]] = {}  # dos vivos, os guardados para a volta: (tipo, bytes)
        self.copies: set[int] = set()  # dos vivos, os que copiam um peso
        self.weights = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        for tensor in held:
            self.count(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.count(leaf)
        if func is torch.ops.aten._to_copy.default and args[0].untyped_storage()._cdata in self.weights:
            self.copies.add(out.untyped_storage()._cdata)
        return out

    def count(self, tensor: torch.Tensor) -> None:
        """Soma um tensor, se o armazenamento dele é novo, até que morra."""
        storage = tensor.untyped_storage()
        if (key := storage._cdata) not in self.known:
            nbytes = storage.nbytes()
            self.known[key] = weakref.ref(storage, lambda _: self.free(key, nbytes))
            self.alive += nbytes
            self.enter(self.moment)

    def free(self, key: int, nbytes: int) -> None:
        """Um armazenamento morreu: o endereço dele pode voltar noutro."""
        del self.known[key]
        self.kept.pop(key, None)
        self.copies.discard(key)
        self.alive -= nbytes

    def enter(self, moment: str) -> None:
        """Passa a um momento do passo, ou fica nele, e guarda o máximo."""
        self.moment = moment
        if self.alive > self.moments.get(moment, (-1, 0))[0]:
            self.moments[moment] = self.alive, self.gradients

    def __enter__(self):
        known = kinds(self.model)
        for module in self.model.modules():
            self.hooks += self.follow(known.get(module, ADAPTER), module)
        for i, stack in enumerate(blocks(self.model)):
            for j, block in enumerate(stack):
                place = f"{i}.fundo" if j == 0 else f"{i}.alto" if j == len(stack) - 1 else f"{i}.{MIDDLE}"
                self.hooks.append(
                    block.register_forward_hook(lambda *call, place=place: self.on_return(call[-1], place))
                )
        for p in self.model.parameters():
            if p.requires_grad:
                self.hooks.append(p.register_post_accumulate_grad_hook(self.accumulated))
        return super().__enter__()

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()
        return super().__exit__(*error)

    def follow(self, kind: str, module: nn.Module) -> list:
        """Os ganchos que dizem que se entrou num módulo, e que se saiu, também por uma exceção."""
        enter = module.register_forward_pre_hook(lambda *call: self.path.append(kind))
        return [enter, module.register_forward_hook(lambda *call: self.path.pop() and None, always_call=True)]

    def on_return(self, output: Any, place: str) -> None:
        """Da saída de um bloco, quando o gradiente dela chegar: começa a volta desse bloco."""
        output = output[0] if isinstance(output, tuple) else output
        if output.requires_grad and self.moment == TOP:
            output.register_hook(lambda gradient: self.enter(place))

    def accumulated(self, parameter: nn.Parameter) -> None:
        self.gradients += parameter.grad.untyped_storage().nbytes()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Dentro do `with`, anota o que cada conta guarda."""
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor):
            yield

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if (key := storage._cdata) not in self.weights and key not in self.kept:
            self.kept[key] = COPIES if key in self.copies else self.path[-1], storage.nbytes()
            self.count(tensor)
        return tensor.detach()  # o próprio tensor prenderia a si mesmo, e a memória não voltaria

    def saved(self) -> dict[str, int]:
        """Os bytes guardados que ainda vivem: {tipo: bytes}."""
        total = dict.fromkeys(KINDS, 0)
        for kind, nbytes in self.kept.values():
            total[kind] += nbytes
        return {kind: nbytes for kind, nbytes in total.items() if nbytes}


def blocks(model: nn.Module) -> list[nn.ModuleList]:
    """Os blocos de cada pilha do modelo: a lista de módulos mais externa dela."""
    lists = [[m for m in stack.modules() if isinstance(m, nn.ModuleList)] for stack in modules.stacks(model)]
    return [found[0] for found in lists if found]


def kinds(model: nn.Module) -> dict[nn.Module, str]:
    """O tipo, um de KINDS, do que se guarda em cada módulo; o que não está aqui é de um adaptador."""
    found: dict[nn.Module, str] = {}
    inner = modules.body(model)
    for name, module in walk(model):
        base = bare(module)
        if base not in inner or base is model:
            kind = HEAD
        elif modules.is_norm(base):
            kind = NORMS
        else:
            kind = next((kind for kind, words in NAMES.items() if re.search(words, name, re.IGNORECASE)), BETWEEN)
        found |= {base: kind} | dict.fromkeys(chain(module), HEAD if kind == HEAD else ADAPTER)
    return found
