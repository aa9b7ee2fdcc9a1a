"""A pasta de um modelo: o que tem de haver nela, e o que conferir do que transformers leu.

    model_folder.check_folder(folder, "bert")                     # antes de ler os pesos
    model_folder.check_weights(model, info, folder)               # depois: o que falta, o que sobra, se são números
    tokenizer = model_folder.load_tokenizer(folder, model.config)

transformers carrega sem queixa um arquivo a que faltam pesos, uma cabeça de outra tarefa e valores que não são números.
"""

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
import transformers

from ftcourse import interchange, modules

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER = ("tokenizer.json", "vocab.txt", "spiece.model", "tokenizer.model", "vocab.json")  # um deles basta
LAYER = re.compile(r".*?\.\d+(?=\.)")  # "bert.encoder.layer.3", de um peso que está nela


def check_folder(folder: Path, family: str) -> None:
    """Confere, antes de ler os pesos, que uma pasta tem um modelo da família, inteiro, em safetensors, e o vocabulário.

    Levanta FileNotFoundError se falta um arquivo, OSError se algum está cortado e ValueError se é de outra família ou
    se há ali também um adaptador.
    """
    check_family(folder / CONFIG, family)
    if (folder / interchange.CONFIG).is_file():  # com peft instalada, transformers o aplicaria sem dizer
        raise ValueError(
            f"Em {folder} há um adaptador, {interchange.CONFIG} e {interchange.WEIGHTS}, junto do modelo. Passe esses "
            "dois arquivos para outra pasta e, com o modelo carregado, leia-a com methods.load."
        )
    for path in weights(folder):
        try:
            with safetensors.safe_open(path, "pt"):
                pass
        except safetensors.SafetensorError as error:
            raise OSError(
                f"{path} está cortado ou não é um arquivo safetensors ({error}). Copie-o outra vez de onde veio."
            ) from error
    if not any((folder / name).is_file() for name in TOKENIZER):
        raise FileNotFoundError(
            f"Em {folder} falta o vocabulário: um destes, {', '.join(TOKENIZER)}. Grave-o ali com "
            "tokenizer.save_pretrained."
        )


def check_family(path: Path, family: str) -> dict:
    """Os ajustes de um config.json. Levanta ValueError se ele é de outra família ou de pesos já quantizados."""
    if not path.is_file():
        raise FileNotFoundError(
            f"Em {path.parent} falta {CONFIG}: não é a pasta de um modelo. Uma se faz com model.save_pretrained."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind = config.get("model_type")
    except (ValueError, AttributeError) as error:
        raise OSError(f"{path} está cortado ou não é JSON: {error}. Copie-o outra vez de onde veio.") from error
    if kind != family:
        what = f"é de um modelo {kind!r}" if kind else "não diz a arquitetura, em model_type"
        raise ValueError(
            f"{path} {what}, e você pediu {family!r}. O curso carrega 'bert', 'llama' e 't5': se é um deles, comece "
            f'por models.load("{kind or family}", …); senão, escolha um modelo cuja arquitetura seja {family!r}.'
        )
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise ValueError(
            f"{path} é de pesos já quantizados ({method or 'quantization_config'}), que o curso não lê. Escolha o "
            "mesmo modelo em 16 ou 32 bits e, para tê-lo em 4, use qlora.quantize_model."
        )
    return config


def weights(folder: Path) -> list[Path]:
    """Os arquivos de pesos de uma pasta, um ou vários. Levanta FileNotFoundError se falta algum."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        if any(folder.glob("pytorch_model*.bin")):
            raise OSError(only_pickle(f"Em {folder}"))
        raise FileNotFoundError(f"Em {folder} faltam os pesos, {WEIGHTS}. Grave-os com model.save_pretrained.")
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise OSError(f"{folder / INDEX} está cortado ou não é um índice de pesos. Copie-o outra vez.") from error
    if lost := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"Em {folder} falta {lost[0]}, um dos {len(names)} arquivos de pesos que {INDEX} lista. Copie-o de onde "
            "veio."
        )
    return [folder / name for name in names]


def only_pickle(where: str, other: str | None = None) -> str:
    """A recusa de pesos que não estão em safetensors."""
    ready = f'O Hub tem uma cópia convertida: profile="{other}". ' if other else ""
    return (
        f"{where} não há pesos em safetensors. Um pytorch_model.bin pode rodar código ao ser lido, e o curso não o lê. "
        f"{ready}Para convertê-lo você, se confia em quem o fez: "
        'transformers.AutoModelForMaskedLM.from_pretrained(…).save_pretrained("minha-pasta"), ou a classe da família, '
        'e o tokenizador do mesmo modo; depois, profile="minha-pasta".'
    )


def check_weights(model: transformers.PreTrainedModel, info: dict, folder: Path) -> None:
    """Confere o que transformers leu, e não confere: o que falta, o que sobra, as formas, e se são números.

    Levanta OSError, menos para a cabeça: uma de outro número de classes é sorteada de novo, e isso é avisado, como se
    avisa a que veio do arquivo com outros rótulos.
    """
    own = tuple(f"{name}." for name in modules.head(model))
    if lost := sorted(name for name in info["missing_keys"] if not name.startswith(own)):
        raise OSError(
            f"Os pesos de {folder} não têm {', '.join(lost[:3])}: o arquivo não é deste modelo, ou foi gravado sem a "
            "saída do pré-treino. Nesse caso, carregue-o com uma tarefa."
        )
    shapes = sorted(info["mismatched_keys"])
    if wrong := [(name, there, here) for name, there, here in shapes if not name.startswith(own)]:
        name, there, here = wrong[0]
        raise OSError(
            f"Em {folder}, {name} tem a forma {tuple(there)}, e config.json pede {tuple(here)}: os dois arquivos não "
            "são do mesmo modelo. Copie-os outra vez."
        )
    parts = dict(model.named_modules())
    parts |= {name.removeprefix(f"{model.base_model_prefix}."): part for name, part in parts.items()}  # sem a saída
    numbered = [name[: match.end()] for name in info["unexpected_keys"] if (match := LAYER.match(name))]
    if extra := sorted(layer for layer in numbered if layer not in parts):
        raise OSError(
            f"Os pesos de {folder} têm {extra[0]}, uma camada a mais do que config.json diz. Copie os dois outra vez."
        )
    biases = [name for name in info["unexpected_keys"] if name.endswith(".bias")]
    if extra := sorted(name for name in biases if getattr(parts.get(name[: -len(".bias")]), "bias", 0) is None):
        raise OSError(
            f"Os pesos de {folder} têm {extra[0]}, um viés que config.json não diz e que o modelo deixaria de fora. No "
            "LLaMA, diga-o com attention_bias ou mlp_bias; se é o de BitFit com new_bias, já fundido, guarde antes o "
            "adaptador à parte, com methods.save."
        )
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise OSError(f"Em {folder}, {name} tem valores que não são números (nan ou inf). Copie-o de onde veio.")
    if shapes:
        warnings.warn(
            f"A cabeça de {folder} responde {shapes[0][1][0]} classes, e a tarefa tem {model.num_labels}: ela foi "
            "sorteada de novo e precisa de treino.",
            stacklevel=3,
        )
    elif own and not any(name.startswith(own[0]) for name in info["missing_keys"]):
        before = tuple(transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False).id2label.values())
        if before != (now := tuple(model.config.id2label.values())):
            warnings.warn(
                f"A cabeça veio de {folder}, treinada para {before}, e não foi sorteada; a tarefa tem {now}.",
                stacklevel=3,
            )


def load_tokenizer(folder: Path, config: transformers.PretrainedConfig) -> transformers.PreTrainedTokenizerBase:
    """O tokenizador de uma pasta, com o que o treino exige dele: um limite e um token de preenchimento.

    Levanta OSError se ele não se lê e ValueError se não serve ao modelo.
    """
    with quiet():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            if getattr(tokenizer, "do_lower_case", False) and any(
                token != token.lower() for token in tokenizer.get_vocab() if token not in tokenizer.all_special_tokens
            ):  # sem tokenizer_config.json, transformers poria tudo em minúsculas e tiraria os acentos
                tokenizer = transformers.AutoTokenizer.from_pretrained(
                    folder, trust_remote_code=False, do_lower_case=False
                )
        except Exception as error:  # tokenizers levanta Exception, sem mais
            utils, words = transformers.utils, "Copie-o outra vez de onde veio."
            if not (folder / "tokenizer.json").exists() and not (
                utils.is_sentencepiece_available() and utils.is_protobuf_available()
            ):
                words = "Ele pede duas bibliotecas: pip install sentencepiece protobuf, e reinicie o Python."
            raise OSError(
                f"Não consegui ler o vocabulário de {folder}: {str(error).strip().splitlines()[0]} {words}"
            ) from error
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"O vocabulário de {folder} tem {len(tokenizer)} tokens, e o modelo só conhece {config.vocab_size}: os "
            "dois não são do mesmo modelo."
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", 512))
    if tokenizer.pad_token is None:
        if (spare := tokenizer.unk_token or tokenizer.eos_token) is None:
            raise ValueError(
                f"O vocabulário de {folder} não tem com que preencher um lote: diga um em tokenizer.pad_token."
            )
        tokenizer.pad_token = spare
        warnings.warn(f"O vocabulário de {folder} não tem token de preenchimento; usei {spare!r}.", stacklevel=3)
    config.pad_token_id = tokenizer.pad_token_id  # é por ele que a cabeça do LLaMA acha o último token da frase
    return tokenizer


@contextmanager
def quiet() -> Iterator[None]:
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
