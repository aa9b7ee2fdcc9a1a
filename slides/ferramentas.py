"""O que falta nesta máquina para montar os slides. Só usa a biblioteca padrão: roda antes de instalar o curso."""

import os
import re
import shutil
import subprocess
import sys

NODE = 18  # o que a versão do Marp em package.json pede
CHROMIUM = (
    "chromium chromium-browser google-chrome google-chrome-stable chrome msedge",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"%ProgramFiles%\Google\Chrome\Application\chrome.exe",
    r"%ProgramFiles(x86)%\Google\Chrome\Application\chrome.exe",
    r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe",
)
GET_NODE = (
    f"o Node.js {NODE} ou mais novo, com npm (Debian e Ubuntu: apt install nodejs npm; macOS: brew install node; "
    "Windows: winget install OpenJS.NodeJS)"
)
GET_CHROMIUM = (
    "o Chromium ou o Chrome (Debian: apt install chromium; Ubuntu: snap install chromium; "
    "macOS: brew install --cask google-chrome; Windows: winget install Google.Chrome; "
    "se ele já está em outro lugar: CHROME_PATH=caminho)"
)


def chromium():
    """O caminho do navegador que faz o PDF, ou None. CHROME_PATH, se existe, é a única resposta."""
    if os.environ.get("CHROME_PATH"):
        return shutil.which(os.environ["CHROME_PATH"])
    names = CHROMIUM[0].split() + [os.path.expandvars(path) for path in CHROMIUM[1:]]
    return next(filter(None, map(shutil.which, names)), None)


def node():
    """O caminho do Node.js, se ele veio com npm e tem a idade certa, ou None."""
    path = shutil.which("node")
    if not path or not shutil.which("npm"):
        return None
    version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
    found = re.match(r"v(\d+)", version)
    return path if found and int(found.group(1)) >= NODE else None


def missing():
    """Uma frase com o que falta e de onde vem; vazia, se nada falta."""
    wanted = [text for tool, text in ((node, GET_NODE), (chromium, GET_CHROMIUM)) if not tool()]
    return "Para montar os slides falta " + ", e falta ".join(wanted) + "." if wanted else ""


if __name__ == "__main__":
    sys.exit(missing() or None)
