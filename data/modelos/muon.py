"""Muon com a conta na precisão que se pedir; a de torch.optim.Muon é sempre em bfloat16.

Num processador que só emula bfloat16, aquela leva 21 dos 23 segundos de um passo do mini-T5-pt.
"""

import torch

COEFFICIENTS = 3.4445, -4.7750, 2.0315  # a curva mais íngreme em zero que ainda deixa os valores singulares perto de 1


def orthogonalize(matrix, dtype, steps=5):
    """U Vᵀ aproximado de matrix = U S Vᵀ, por Newton-Schulz de grau 5: os valores singulares que não são minúsculos
    vão para perto de 1."""
    a, b, c = COEFFICIENTS
    x = matrix.to(dtype, copy=True)
    x = x.T if x.shape[0] > x.shape[1] else x  # a matriz XXᵀ é a menor das duas
    x /= x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024), com a taxa na escala da de AdamW: .2·√(maior lado) vezes (Liu et al., 2025, §2.2)."""

    def __init__(self, params, lr, dtype, momentum=0.95, weight_decay=0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                if not (state := self.state[parameter]):
                    state["momentum_buffer"] = torch.zeros_like(gradient)
                memory = state["momentum_buffer"]
                memory.lerp_(gradient, 1 - group["momentum"])
                update = orthogonalize(gradient.lerp(memory, group["momentum"]), self.dtype)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)
