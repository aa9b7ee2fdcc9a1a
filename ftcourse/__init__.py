"""ftcourse: o pacote que acompanha o curso de ajuste fino em português.

Cada módulo é uma sala: `models` (as famílias), `hub` e `model_folder` (os modelos de fora), `tasks` (os dados),
`own_data` (os de quem lê), `training` (o laço), `evaluation` (o que se mede), `experiments`, `benchmark` e `results` (a
comparação), `meter`, `memory` e `kept` (a memória de um treino: medida, planejada, em fórmula), `plots` (as figuras),
`exercises` (as verificações), `predictions` (as previsões de quem lê). torch e transformers só são carregados por quem
os usa, então `import ftcourse` é imediato.
"""

from ftcourse.exercises import verifica
from ftcourse.predictions import balanco, preveja, saiu

__all__ = ["balanco", "preveja", "saiu", "verifica"]
__version__ = "0.1.0"
