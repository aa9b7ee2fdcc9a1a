"""ftcourse: o pacote que acompanha o curso de ajuste fino em português.

Cada módulo é uma sala: `models` (as famílias), `hub` e `model_folder` (os modelos de fora), `tasks` (os dados),
`own_data` (os de quem lê), `training` (o laço), `benchmark` (as execuções que viram resultado), `plots` (o estilo das
figuras), `exercises` (as verificações). torch e transformers só são carregados por quem os usa, então `import ftcourse`
é imediato.
"""

from ftcourse.exercises import verifica

__all__ = ["verifica"]
__version__ = "0.1.0"
