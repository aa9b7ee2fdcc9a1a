"""Constrói a tarefa *aceitabilidade*: esta frase está bem escrita?

Metade das frases fica como saiu; a outra metade recebe uma falha, uma só, num trecho conhecido. Uma frase entra uma
vez, ou inteira ou com falha, e só entra se poderia receber uma falha: estar na tarefa não diz nada sobre o rótulo.

    python data/tarefas/aceitabilidade/constroi.py PASTA_BRUTA [DESTINO]

Fontes, em PASTA_BRUTA:

- `ud_bosque_gsd.conllu.xz`: notícias e Wikipédia anotadas à mão (Universal Dependencies, CC BY-SA 4.0);
- `frases_gnome.tsv.xz`: frases da ajuda do GNOME (CC BY-SA 3.0, na maioria);
- `bncc_ef.tsv.xz`: habilidades da Base Nacional Comum Curricular (CC BY 4.0), só para teste;
- `conjugacao.tsv.xz`: formas dos verbos (Debian `brazilian-conjugate`), para trocar o número de um verbo.

A ajuda e o currículo não têm anotação: as classes das palavras vêm das formas que nas notícias têm uma leitura só.
"""

import csv
import hashlib
import lzma
import random
import re
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from ftcourse.files import write_jsonl

HERE = Path(__file__).resolve().parent
FILES = ("ud_bosque_gsd.conllu.xz", "frases_gnome.tsv.xz", "bncc_ef.tsv.xz", "conjugacao.tsv.xz")
SPLITS = (("train", 0.75), ("validation", 0.10), ("test", 0.15))
OUT = "out_of_domain"  # a parte da fonte que só testa
MIN_WORDS, MAX_WORDS = 6, 30
MIN_CHOICES = 2  # com uma escolha só, toda frase com "você pode" e nada mais viraria "você podem"

# Quatro formas por linha: masculino e feminino no singular, masculino e feminino no plural. Quem tem só duas não varia
# em número ("um" pode ser numeral). As contrações trocam-se inteiras: "de o" ou "em a" entregariam a falha.
PARADIGMS = [
    row.split()
    for row in """o a os as; do da dos das; no na nos nas; ao à aos às; pelo pela pelos pelas; um uma; num numa;
    este esta estes estas; esse essa esses essas; aquele aquela aqueles aquelas; deste desta destes destas;
    desse dessa desses dessas; neste nesta nestes nestas; nesse nessa nesses nessas; outro outra outros outras;
    nosso nossa nossos nossas; seu sua seus suas; meu minha meus minhas; todo toda todos todas;
    algum alguma alguns algumas; nenhum nenhuma; vários várias; ambos ambas""".split(";")
]
PLURAL_ONLY = {"vários", "ambos"}
ARTICLES = {form for row in PARADIGMS[:7] for form in row}
POSSESSIVES = set("minha minhas sua suas nossa nossas meu meus seu seus nosso nossos".split())

PREPOSITIONS = {
    "de": "de do da dos das", "em": "em no na nos nas", "a": "a ao à aos às", "por": "por pelo pela pelos pelas",
    "com": "com", "para": "para",
}  # fmt: skip
PREPOSITION_OF = {form: base for base, forms in PREPOSITIONS.items() for form in forms.split()}
# Outras palavras sem conteúdo: uma troca de ordem não as deixa lado a lado ("sistema o de"), o que daria na vista.
FUNCTION = (
    ARTICLES
    | set(PREPOSITION_OF)
    | set(
        """e ou que se como mas não mais sobre sem até entre nem é são foi após durante contra sob perante desde segundo
    conforme""".split()
    )
)
INFINITIVE = re.compile(r"\w+[aeiô]r$")
RELATIVE = {"que", "quem", "qual", "quais", "se"}
COORDINATION = {"e", "ou", "nem", "mas"}

# Substantivos de dois gêneros: "o cliente" e "a cliente" estão bem. Os inanimados em -nte têm um gênero só.
TWO_GENDERS = set(
    """jovem líder atleta colega policial chefe refém intérprete capital caixa guia rádio cabeça grama moral cura
    modelo personagem hacker macro fã membro titular militar oficial rival familiar cônjuge menor maior profissional
    intelectual original final central geral manequim índio suicida camarada piloto soldado juiz prefixo sentinela
    vítima testemunha cobra crisma foca lente praça trânsfuga ordenança pai homem mulher""".split()
)
INANIMATE = set(
    """ambiente parte fonte ponte mente corrente frente gente lente componente presente continente instante acidente
    incidente restante montante antecedente vertente enchente patente volante expoente horizonte monte""".split()
)
# Com estes sujeitos o verbo concorda no singular e no plural ("a maioria dos alunos faz" e "fazem").
COLLECTIVE = set(
    """maioria maior parte metade resto restante minoria grupo série conjunto número porcentagem percentagem casal
    equipe equipa dupla par total multidão quantidade percentual terço quarto dúzia dezena centena milhar milhão bilhão
    tipo espécie variedade cento gente família um nenhum algum cada qual""".split()
)
# Locuções em que o acento falta ou sobra sem que a frase caia: "à distância", "à mão", "à noite".
OPTIONAL_CRASE = set(
    """distância mão mãos vista máquina bala faca noite noites tarde tardes manhã vez vezes hora horas direita esquerda
    medida época data força parte altura frente beira margem casa terra moda custa volta toa espera busca prova
    lenha gás zero uma""".split()
)


@dataclass(frozen=True)
class Word:
    """Uma palavra como está escrita (contrações inteiras), com o lugar no texto e o que se sabe dela."""

    form: str
    start: int
    end: int
    pos: str = ""
    lemma: str = ""
    gender: str = ""
    number: str = ""
    tense: str = ""

    @property
    def lower(self):
        return self.form.lower()


@dataclass
class Sentence:
    """Uma frase, com as concordâncias que a anotação (ou o léxico) afirma."""

    text: str
    document: str
    words: list
    agreements: list = field(default_factory=list)  # (determinante ou adjetivo, substantivo)
    subjects: list = field(default_factory=list)  # (verbo, núcleo do sujeito)

    def adjacent(self, first, second):
        """As duas palavras existem e só um espaço as separa."""
        exist = first >= 0 and second < len(self.words)
        return exist and self.text[self.words[first].end : self.words[second].start] == " "

    def lower(self, index):
        return self.words[index].lower if 0 <= index < len(self.words) else ""


@dataclass(frozen=True)
class Fault:
    """Troca de `text[start:end]` por `new`."""

    kind: str
    start: int
    end: int
    new: str

    def apply(self, text):
        return text[: self.start] + self.new + text[self.end :]


# --- Leitura -----------------------------------------------------------------------------------------------------


def read_lines(path):
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        yield from (line.rstrip("\n") for line in lines)


def read_tsv(path):
    return csv.DictReader(read_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)


def read_conllu(lines):
    """Devolve (documento, texto, linhas de símbolos) para cada frase."""
    document, text, rows = "", "", []
    for line in [*lines, ""]:
        if line.startswith("# newdoc id = "):
            document = line.removeprefix("# newdoc id = ")
        elif line.startswith("# text = "):
            text = line.removeprefix("# text = ")
        elif line and line[0] != "#":
            rows.append(line.split("\t"))
        elif not line and rows:
            yield document, text, rows
            rows = []


def features(column):
    return dict(pair.split("=", 1) for pair in column.split("|")) if column != "_" else {}


def gold_words(text, rows):
    """As palavras escritas com a anotação delas; os símbolos por número; a palavra de cada símbolo.

    Devolve `None` se o texto e os símbolos não casam.
    """
    words, tokens, word_of, position, contraction_end = [], {}, {}, 0, 0
    for row in rows:
        number, _, last = row[0].partition("-")
        if last or int(number) > contraction_end:  # uma palavra escrita; as partes de uma contração não o são
            start = text.find(row[1], position)
            if start < 0 or text[position:start].strip():
                return None
            position = start + len(row[1])
            if row[3] != "PUNCT":
                words.append(Word(row[1], start, position))
        if last:
            contraction_end = int(last)
        else:
            tokens[number] = row
            if row[3] != "PUNCT":
                words[-1] = tagged_gold(words[-1], row)
                word_of[number] = len(words) - 1
    return words, tokens, word_of


def tagged_gold(word, row):
    """A classe de um símbolo; a segunda parte de uma contração junta a sua à da primeira ("ADP+DET")."""
    feats, pos = features(row[5]), row[3]
    if pos in ("VERB", "AUX"):
        pos = {"Fin": "FIN", "Part": "ADJ", "Inf": "INF", "Ger": "GER"}.get(feats.get("VerbForm"), "VERB")
        if pos == "FIN" and feats.get("Person") == "3" and feats.get("Mood") in ("Ind", "Sub", "Cnd"):
            pos = "FIN3"
    pos = f"{word.pos}+{pos}" if word.pos else pos
    gender, number = feats.get("Gender", ""), feats.get("Number", "")
    tense = f"{feats['Mood']} {feats.get('Tense')}" if pos == "FIN3" else ""
    return replace(word, pos=pos, lemma=row[2], gender=gender, number=number, tense=tense)


def gold_sentence(document, text, analysis, lexicon):
    words, tokens, word_of = analysis
    sentence = Sentence(text, document, [lexicon.completed(word) for word in words])
    add_gold_agreements(sentence, tokens, word_of)
    return sentence


def add_gold_agreements(sentence, tokens, word_of):
    """`det`, `amod` e particípios que concordam com um substantivo; sujeitos que concordam com um verbo finito."""
    joined = {row[6] for row in tokens.values() if row[7] == "conj"}  # quem tem outro termo coordenado
    passive = {row[6] for row in tokens.values() if row[2] == "se" and row[3] == "PRON"}
    for number, row in tokens.items():
        head = tokens.get(row[6])
        if head is None or number not in word_of or row[6] not in word_of:
            continue
        relation = row[7].split(":")[0]
        if relation in ("det", "amod", "acl") and head[3] == "NOUN":
            simple = not {number, row[6]} & joined and "conj" not in (row[7], head[7])
            if simple:
                sentence.agreements.append((word_of[number], word_of[row[6]]))
        elif relation == "nsubj" and row[3] in ("NOUN", "PROPN", "PRON") and number not in joined:
            copula = [n for n, r in tokens.items() if r[6] == row[6] and r[7] == "cop"]
            helpers = [n for n, r in tokens.items() if r[6] == row[6] and r[7].split(":")[0] in ("aux", "cop")]
            verb = next((n for n in [row[6], *helpers] if sentence.words[word_of[n]].pos == "FIN3"), None)
            # "O problema são os juros": com predicativo substantivo o verbo "ser" concorda com um ou com outro.
            if verb and row[6] not in passive and not (copula and head[3] not in ("ADJ", "VERB")):
                sentence.subjects.append((word_of[verb], word_of[number]))


def plain_sentence(document, text, lexicon):
    """Anota uma frase sem treebank: só as concordâncias entre vizinhos de leitura única."""
    words = [lexicon.tagged(match) for match in re.finditer(r"\w+(?:[-'’]\w+)*", text)]
    sentence = Sentence(text, document, words)
    for index, word in enumerate(words):
        if word.pos != "NOUN" or not (word.gender and word.number):
            continue
        if sentence.adjacent(index - 1, index) and word.lower not in PARADIGM_OF:
            determiner = PARADIGM_OF.get(words[index - 1].lower)
            if determiner and determiner[1:] == (word.gender, word.number):
                kind = "DET" if words[index - 1].lower not in PREPOSITION_OF else "ADP+DET"
                kind = "DET" if words[index - 1].lower == "a" else kind
                words[index - 1] = replace(words[index - 1], pos=kind, gender=word.gender, number=word.number)
                sentence.agreements.append((index - 1, index))
        after = words[index + 1] if sentence.adjacent(index, index + 1) else word
        if after.pos == "ADJ" and after.number == word.number and after.gender in ("", word.gender):
            sentence.agreements.append((index + 1, index))
    sentence.subjects = [pair for index in range(len(words)) if (pair := plain_subject(sentence, index))]
    return sentence


CLAUSE_OPENERS = {"se", "quando", "que", "enquanto", "como", "caso", "porque"}
NOMINAL = {"DET", "NOUN", "ADJ", "ADP+DET", "ADP", "PRON"}


def plain_subject(sentence, verb):
    """(verbo, núcleo) se entre o início da oração e o verbo só há um sintagma nominal."""
    words = sentence.words
    if words[verb].pos != "FIN3" or verb == 0:
        return None
    # "é/são" só com um predicativo que não possa ser o sujeito
    if words[verb].lemma == "ser" and (verb + 1 >= len(words) or words[verb + 1].pos != "ADJ"):
        return None
    start = verb
    while sentence.adjacent(start - 1, start) and words[start - 1].pos in NOMINAL:
        start -= 1
    opens = start == 0 or (sentence.lower(start - 1) in CLAUSE_OPENERS and sentence.adjacent(start - 1, start))
    if words[start].pos == "DET" and start + 1 < verb and words[start + 1].pos == "NOUN" and opens:
        head = start + 1
    elif words[start].pos == "PRON" and start == verb - 1:
        head = start
    else:
        return None
    return (verb, head) if words[head].number == words[verb].number else None


# --- O que se aprende dos textos ----------------------------------------------------------------------------------


def paradigm_table():
    """forma → (paradigma, gênero, número)"""
    table = {}
    for row in PARADIGMS:
        for place, form in enumerate(row):
            number = "Plur" if place > 1 or row[0] in PLURAL_ONLY else "Sing"
            table[form] = (row, ("Masc", "Fem")[place % 2], number)
    return table


PARADIGM_OF = paradigm_table()
PRONOUNS = {
    "ele": "Sing", "ela": "Sing", "isso": "Sing", "isto": "Sing", "você": "Sing",
    "eles": "Plur", "elas": "Plur", "vocês": "Plur",
}  # fmt: skip


class Lexicon:
    """As formas atestadas no treebank, com as leituras que têm, e as conjugações."""

    def __init__(self, words, conjugation):
        self.readings = defaultdict(Counter)
        self.forms = defaultdict(Counter)
        self.genders = defaultdict(Counter)
        self.tenses = defaultdict(Counter)
        self.finite, self.partners = {}, defaultdict(set)
        for word in words:
            self.learn(word)
        self.learn_verbs(conjugation)

    def learn(self, word):
        if word.pos in ("PROPN", "VERB") or (word.pos in ("NOUN", "ADJ") and not word.number):
            return  # nomes próprios; palavras que a parte GSD deixou sem traços
        self.readings[word.lower][word.pos, word.lemma, word.gender, word.number] += 1
        self.forms[word.pos, word.lemma, word.gender, word.number][word.lower] += 1
        if word.pos == "FIN3":
            self.tenses[word.lemma, word.tense, word.number][word.lower] += 1
        if word.pos == "NOUN":
            self.genders[word.lemma][word.gender] += 1

    def learn_verbs(self, rows):
        """Pares singular/plural da terceira pessoa, no mesmo tempo do mesmo verbo.

        Os do treebank vêm primeiro (a lista de conjugações não tem os verbos mais irregulares).
        """
        for (lemma, tense, number), forms in self.tenses.items():
            others = self.tenses.get((lemma, tense, {"Sing": "Plur", "Plur": "Sing"}.get(number)))
            for form in forms if others else ():
                if forms[form] >= 2:
                    self.partners[form, lemma].add(others.most_common(1)[0][0])
        known = set(self.partners)
        table = {(row["verbo"], row["tempo"], row["pessoa"]): row["forma"] for row in rows}
        for (verb, tense, person), form in table.items():
            other = table.get((verb, tense, {"2": "5", "5": "2"}.get(person)))
            if other and other != form and tense != "FS":  # o futuro do subjuntivo confunde-se com o infinitivo
                if (form, verb) not in known:
                    self.partners[form, verb].add(other)
                self.finite.setdefault(form, (verb, "Sing" if person == "2" else "Plur"))

    def learn_nouns(self, texts):
        """Substantivos que as notícias não têm ("plugin"): seguem sempre determinantes do mesmo gênero e número."""
        followed = defaultdict(Counter)
        for first, second in (pair for text in texts for pair in re.findall(r"(?=\b(\w+) (\w+))", text.lower())):
            known = second in self.readings or second in self.finite or INFINITIVE.match(second)
            if first in PARADIGM_OF and not known:
                followed[second][PARADIGM_OF[first][1:]] += 1
        for form, counts in followed.items():
            (gender, number), count = counts.most_common(1)[0]
            if count >= 4 and count >= 0.97 * sum(counts.values()):
                self.readings[form]["NOUN", form, gender, number] = count
                self.genders[form][gender] = count

    def tagged(self, match):
        """A palavra com a leitura que no treebank cobre nove de cada dez ocorrências; sem isso, sem classe."""
        word = Word(match.group(), match.start(), match.end())
        if word.lower in PRONOUNS:
            return replace(word, pos="PRON", lemma=word.lower, number=PRONOUNS[word.lower])
        readings = self.readings.get(word.lower)
        if not readings:
            lemma, number = self.finite.get(word.lower, ("", ""))
            return replace(word, pos="FIN3" if number else "", lemma=lemma, number=number)
        return self.read(replace(word, pos=certain(readings, 0)), readings)

    def completed(self, word):
        """Dá a uma palavra que o treebank deixou sem traços os que a mesma forma tem no resto dele."""
        if word.lower in PARADIGM_OF and word.pos in ("DET", "ADP+DET"):
            return replace(word, gender=PARADIGM_OF[word.lower][1], number=PARADIGM_OF[word.lower][2])
        if word.pos not in ("NOUN", "ADJ", "VERB") or word.number:
            return word
        kinds = ("FIN3", "FIN", "ADJ", "INF", "GER") if word.pos == "VERB" else (word.pos,)
        readings = Counter({key: n for key, n in self.readings.get(word.lower, {}).items() if key[0] in kinds})
        return self.read(replace(word, pos=certain(readings, 0) or word.pos), readings)

    def read(self, word, readings):
        """Lema, gênero e número entre as leituras da classe da palavra."""
        same = Counter({key: count for key, count in readings.items() if key[0] == word.pos})
        return replace(word, lemma=certain(same, 1), gender=certain(same, 2), number=certain(same, 3)) if same else word

    def one_gender(self, word):
        """O substantivo tem um gênero só, e não o das pessoas de quem fala."""
        seen = self.genders[word.lemma]
        if word.lemma in TWO_GENDERS or word.lemma.endswith("ista"):
            return False
        if word.lemma.endswith("nte") and word.lemma not in INANIMATE:
            return False
        return seen[word.gender] >= 2 and seen[word.gender] >= 0.97 * sum(seen.values())

    def inflected(self, word, gender, number):
        """A forma do mesmo lema com outro gênero ou número, se o treebank a atesta sem dúvida."""
        forms = self.forms.get((word.pos, word.lemma, gender, number))
        if not forms:
            return None
        form, count = forms.most_common(1)[0]
        same_degree = form[: len(word.lower) - 3] == word.lower[:-3]  # "altíssimo" também tem o lema "alto"
        return form if same_degree and count >= 0.9 * sum(forms.values()) else None

    def other_number(self, verb):
        others = self.partners.get((verb.lower, verb.lemma), ())
        # "vêem", de antes do acordo ortográfico, só apareceria nas frases com falha
        return next(iter(others)) if len(others) == 1 and not verb.lower.endswith("ê") else None


def certain(readings, place):
    """O valor que nove de cada dez leituras dão ao campo `place`, ou vazio."""
    counts = Counter()
    for reading, count in readings.items():
        counts[reading[place]] += count
    value, count = counts.most_common(1)[0] if counts else ("", 0)
    return value if count >= 0.9 * sum(counts.values()) else ""


class Usage:
    """Contagens de vizinhos em todas as frases: que preposição segue cada palavra, e se depois dela vem artigo só."""

    def __init__(self, texts):
        self.words, self.pairs = Counter(), Counter()
        self.preposition = defaultdict(Counter)
        self.object = Counter()
        for text in texts:
            forms = [match.group().lower() for match in re.finditer(r"\w+", text)]
            self.words.update(forms)
            self.pairs.update(pairwise(forms))
            for first, second, third in zip(forms, forms[1:], [*forms[2:], ""]):
                # "a" pode ser artigo: só conta antes de infinitivo. Fora daí decide a regra da escola, que troca por um
                # masculino e vê se dá "ao" ou "o".
                if second in PREPOSITION_OF and (second != "a" or INFINITIVE.match(third)):
                    self.preposition[first][PREPOSITION_OF[second]] += 1
                self.object[first] += second in ("o", "os")
        self.share = Counter()
        for counts in self.preposition.values():
            self.share.update(counts)

    def governs(self, word, base):
        """A palavra pede quase sempre esta preposição."""
        counts = self.preposition[word]
        return counts[base] >= 4 and counts[base] >= 0.8 * (sum(counts.values()) + self.object[word])

    def refuses(self, word, base):
        """A preposição nunca segue a palavra, embora pelo acaso já devesse tê-la seguido."""
        counts = self.preposition[word]
        return not counts[base] and sum(counts.values()) * self.share[base] >= 2 * sum(self.share.values())


# --- As seis falhas -----------------------------------------------------------------------------------------------


def in_case_of(old, new):
    return new[0].upper() + new[1:] if old[0].isupper() else new


def replaced(kind, word, new):
    return Fault(kind, word.start, word.end, in_case_of(word.form, new))


def rivals(sentence, index, head, gender, number):
    """Um substantivo anterior com que a nova forma concordaria: em "grupo de alunos novo" não há falha."""
    return any(
        place != head and word.pos in ("NOUN", "PROPN", "")
        and word.gender in ("", gender) and word.number in ("", number) and word.lower not in FUNCTION
        for place, word in enumerate(sentence.words[max(0, index - 7) : index], max(0, index - 7))
    )  # fmt: skip


def near_coordination(sentence, first, last):
    return sentence.lower(first - 1) in COORDINATION or sentence.lower(last + 1) in COORDINATION


def agreeing(sentence, index, head, lexicon, gender, number):
    """A forma de `words[index]` (determinante ou adjetivo) com outro gênero ou número; `None` se a troca não serve."""
    word, noun = sentence.words[index], sentence.words[head]
    if word.number != noun.number or word.gender not in ("", noun.gender) or noun.pos != "NOUN":
        return None
    if near_coordination(sentence, min(index, head), max(index, head)):
        return None
    if word.pos in ("DET", "ADP+DET") and word.lower in PARADIGM_OF:
        row, old_gender, old_number = PARADIGM_OF[word.lower]
        place = ("Masc", "Fem").index(gender) + 2 * (number == "Plur" and row[0] not in PLURAL_ONLY)
        close = 0 < head - index <= 2
        agrees = (old_gender, old_number) == (noun.gender, noun.number)
        return row[place] if close and agrees and place < len(row) else None
    if word.pos == "ADJ" and abs(index - head) == 1 and not rivals(sentence, index, head, gender, number):
        return lexicon.inflected(word, gender, number)
    return None


def gender_faults(sentence, lexicon):
    """o sistema → a sistema; janela nova → janela novo"""
    for index, head in sentence.agreements:
        noun = sentence.words[head]
        if noun.gender and lexicon.one_gender(noun):
            gender = "Fem" if noun.gender == "Masc" else "Masc"
            if new := agreeing(sentence, index, head, lexicon, gender, noun.number):
                yield replaced("gênero", sentence.words[index], new)


def number_faults(sentence, lexicon):
    """os sistemas → o sistemas; janelas novas → janelas nova; os sistemas → os sistema"""
    for index, head in sentence.agreements:
        noun = sentence.words[head]
        if noun.number and noun.gender:
            number = "Plur" if noun.number == "Sing" else "Sing"
            if new := agreeing(sentence, index, head, lexicon, noun.gender, number):
                yield replaced("número", sentence.words[index], new)
                if head == index + 1 and (other := lexicon.inflected(noun, noun.gender, number)):
                    yield replaced("número", noun, other)


def verb_faults(sentence, lexicon):
    """o sistema abre → o sistema abrem"""
    for verb, subject in sentence.subjects:
        word, noun = sentence.words[verb], sentence.words[subject]
        if word.number != noun.number or noun.lemma in COLLECTIVE or word.lemma == "haver":
            continue
        if not 0 < verb - subject <= 8 or noun.pos not in ("NOUN", "PROPN", "PRON"):
            continue
        # Um "e" entre o sujeito e o verbo pode somar dois sujeitos.
        if any(sentence.lower(place) in COORDINATION for place in range(subject - 2, verb)):
            continue
        if any(sentence.lower(place) in RELATIVE for place in range(subject, verb)):
            continue
        if new := lexicon.other_number(word):
            yield replaced("verbo", word, new)


def order_faults(sentence, lexicon):
    """uma janela nova → janela uma nova: a palavra gramatical troca de lugar com a que vem depois dela."""
    words = sentence.words
    for index in range(1, len(words) - 2):
        first, second = words[index], words[index + 1]
        movable = (
            (first.pos in ("DET", "ADP+DET") and first.lower in ARTICLES | {"cada"} and second.pos == "NOUN")
            # sem adjetivo depois, "com imagens JPEG" daria "imagens com JPEG", que está bem
            or (first.pos == "ADP" and second.pos == "NOUN" and words[index + 2].pos == "ADJ")
            or (first.pos == "ADP" and second.pos == "INF")
            or (first.pos == "SCONJ" and second.pos in ("FIN3", "INF"))
        )
        # "que o banco enviaria" daria "que banco o enviaria", onde "o" passa por pronome
        movable = movable and not (first.lower in ("o", "a", "os", "as") and words[index + 2].pos in ("FIN3", ""))
        alone = sentence.adjacent(index - 1, index) and sentence.adjacent(index, index + 1)
        followed = sentence.adjacent(index + 1, index + 2) and sentence.lower(index + 2) not in FUNCTION
        if movable and alone and followed and sentence.lower(index + 2) not in PARADIGM_OF:
            yield Fault("ordem", first.start, second.end, f"{second.form} {first.form}")


def crase_faults(sentence, usage):
    """acesso à rede → acesso a rede; abrir a janela → abrir à janela; a fazer → à fazer"""
    words = sentence.words
    for index in range(1, len(words) - 1):
        word, before, after = words[index], sentence.lower(index - 1), sentence.lower(index + 1)
        if word.lower not in ("a", "as", "à", "às") or not sentence.adjacent(index - 1, index):
            continue
        if after in POSSESSIVES | OPTIONAL_CRASE or before == "até" or not sentence.adjacent(index, index + 1):
            continue
        takes_a, takes_object = usage.preposition[before]["a"], usage.object[before]
        if word.lower in ("à", "às"):
            sure = takes_a >= 2 or words[index - 1].pos in ("NOUN", "ADJ", "ADV")
            wrong = after[0].isdigit() or (sure and takes_object <= 0.15 * takes_a)
        elif words[index + 1].pos == "INF":
            wrong = word.lower == "a" and after not in ("partir", "seguir", "ser")  # tão frequentes que se decoram
        else:
            article = word.pos == "DET" and words[index + 1].pos == "NOUN"
            wrong = article and takes_object >= 4 and not takes_a and before not in FUNCTION
        if wrong:
            yield replaced("crase", word, word.lower.translate(str.maketrans("aà", "àa")))


def preposition_faults(sentence, usage):
    """depende do sistema → depende no sistema, onde a palavra anterior pede uma preposição e recusa a outra"""
    for index in range(1, len(sentence.words) - 1):
        word, before, after = sentence.words[index], sentence.lower(index - 1), sentence.lower(index + 1)
        base = PREPOSITION_OF.get(word.lower)
        if not base or before in FUNCTION or before.isdigit() or (word.lower == "a" and not INFINITIVE.match(after)):
            continue
        if not (sentence.adjacent(index - 1, index) and sentence.adjacent(index, index + 1)):
            continue
        place = PREPOSITIONS[base].split().index(word.lower)
        if after in PARADIGM_OF or not usage.governs(before, base):
            continue
        for other, forms in PREPOSITIONS.items():
            forms = forms.split()
            # "barra com título", "Copa em 1982" e "professor no colégio" estariam bem
            noun = sentence.words[index - 1].pos in ("NOUN", "PROPN", "")
            if base == "de" and other not in (("a",) if noun else ("a", "em")):
                continue
            attested = place < len(forms) and usage.pairs[forms[place], after]
            if other != base and attested and usage.refuses(before, other):
                yield replaced("preposição", word, forms[place])


RULES = {
    "gênero": gender_faults, "número": number_faults, "verbo": verb_faults, "ordem": order_faults,
    "crase": crase_faults, "preposição": preposition_faults,
}  # fmt: skip


def all_faults(sentence, lexicon, usage):
    """As falhas que a frase pode receber, por tipo. As formas novas são palavras que os textos atestam."""
    found = defaultdict(list)
    for kind, rule in RULES.items():
        for fault in rule(sentence, usage if kind in ("crase", "preposição") else lexicon):
            old = sentence.text[fault.start : fault.end]
            if fault.new != old and all(usage.words[form] >= 3 for form in fault.new.lower().split()):
                found[kind].append(fault)
    return dict(found)


# --- Da frase à linha ---------------------------------------------------------------------------------------------


def stable(*parts):
    """Um gerador próprio de cada frase: mudar uma regra não sorteia de novo as outras frases."""
    return random.Random(hashlib.sha256("\0".join(parts).encode()).digest())


def well_formed(text):
    """Frase inteira, com maiúscula no começo, ponto no fim e espaços simples."""
    size = len(re.findall(r"\w+", text))
    spaced = re.search(r"  |\s[,.;:!?)]|\( |--|\d - |\w - \w*-?feira", text)
    whole = re.fullmatch(r"[«\"“'‘]?[A-ZÀ-Ý].*[.!?][»\"”'’]?", text)
    return MIN_WORDS <= size <= MAX_WORDS and whole and not spaced


def distinct(sentences):
    """Deixa de fora as frases quase iguais a uma anterior: Jaccard de 0,5 ou mais entre os trios de palavras."""
    seen, owners, kept = set(), defaultdict(list), []
    for sentence in sentences:
        forms = re.findall(r"\w+", re.sub(r"\d", "0", sentence.text.lower()))
        trios = frozenset(zip(forms, forms[1:], forms[2:]))
        common = Counter(owner for trio in trios for owner in owners[trio])
        alike = any(3 * count >= len(trios) + len(kept[owner][1]) for owner, count in common.items())
        if alike or tuple(forms) in seen:
            continue
        seen.add(tuple(forms))
        for trio in trios:
            owners[trio].append(len(kept))
        kept.append((sentence, trios))
    return [sentence for sentence, _ in kept]


def split_of(source, document):
    draw = stable("split", source, document).random()
    for name, share in SPLITS:
        if draw < share:
            return name
        draw -= share
    return SPLITS[-1][0]


def new_pairs(text, fault):
    """Os pares de palavras vizinhas que a falha cria."""
    before = re.findall(r"\w+", text[: fault.start].lower())[-1:]
    after = re.findall(r"\w+", text[fault.end :].lower())[:1]
    forms = [*before, *fault.new.lower().split(), *after]
    return list(pairwise(forms))


class Chooser:
    """Escolhe uma falha por frase: o tipo mais raro até aqui entre os que mantêm as palavras em equilíbrio.

    Se "a" vira "o" tantas vezes quantas "o" vira "a", contar palavras não separa as frases certas das outras. Em cada
    tipo uma palavra pode ganhar ou perder até `SLACK` das vezes que ocorre nas frases que vão receber falha, e um par
    novo ("você podem") não se repete a ponto de ser decorado.
    """

    SLACK, LEAST, REPEATS = 0.2, 3, 3

    def __init__(self, texts):
        self.kinds, self.net, self.made = Counter(), Counter(), Counter()
        self.words = Counter(form for text in texts for form in re.findall(r"\w+", text.lower()))

    def change(self, text, fault):
        """(palavra que sai, palavra que entra); numa troca de ordem não sai nem entra nenhuma."""
        old, new = text[fault.start : fault.end].lower(), fault.new.lower()
        return ("", "") if " " in new else (old, new)

    def cost(self, text, fault):
        old, new = self.change(text, fault)
        return self.net[fault.kind, new] - self.net[fault.kind, old]

    def balanced(self, text, fault):
        old, new = self.change(text, fault)
        gain, loss = self.net[fault.kind, new] + 1, 1 - self.net[fault.kind, old]
        room = {form: max(self.LEAST, self.SLACK * self.words[form]) for form in (old, new)}
        repeated = any(self.made[pair] >= self.REPEATS for pair in new_pairs(text, fault))
        return not repeated and (not new or (gain <= room[new] and loss <= room[old]))

    def choose(self, text, faults):
        draw = stable("fault", text)
        found = [fault for group in faults.values() for fault in group]
        fair = [fault for fault in found if self.balanced(text, fault)] or found
        fault = min(fair, key=lambda fault: (self.kinds[fault.kind], self.cost(text, fault), draw.random()))
        self.made.update(new_pairs(text, fault))
        old, new = self.change(text, fault)
        self.kinds[fault.kind] += 1
        self.net[fault.kind, old] -= 1
        self.net[fault.kind, new] += 1
        return fault


def rows_of(source, candidates):
    """As linhas de uma parte: metade certa, metade com falha, na ordem de um sorteio próprio de cada frase."""
    ordered = sorted(candidates, key=lambda pair: stable("label", pair[0].text).random())
    ordered = ordered[: len(ordered) // 2 * 2]
    chooser = Chooser(sentence.text for sentence, _ in ordered[1::2])
    for place, (sentence, faults) in enumerate(ordered):
        row = {"text": sentence.text, "label": 1, "source": source, "document": sentence.document}
        row |= {"kind": None, "start": None, "end": None, "original": None}
        if place % 2:
            fault = chooser.choose(sentence.text, faults)
            row |= {"text": fault.apply(sentence.text), "label": 0, "kind": fault.kind, "original": sentence.text}
            row |= {"start": fault.start, "end": fault.start + len(fault.new)}
        yield row


def curriculum_clause(text):
    """A primeira oração de uma habilidade: o que vem depois de um gerúndio ou de um ponto e vírgula fica de fora."""
    clause = re.split(r"; |\. |, (?=\w+ndo\b)| \(", text)[0].strip()
    return clause.rstrip(".,;:") + "."


def read_sources(raw):
    """fonte → frases, e o que se aprendeu para pôr falhas nelas."""
    entries = [(*entry[:2], gold_words(*entry[1:])) for entry in read_conllu(read_lines(raw / FILES[0]))]
    entries = [entry for entry in entries if entry[2]]
    lexicon = Lexicon((word for entry in entries for word in entry[2][0]), read_tsv(raw / FILES[3]))
    news = [gold_sentence(*entry, lexicon) for entry in entries]
    help_rows = [(f"{row['pacote']}/{row['documento']}", row["frase"]) for row in read_tsv(raw / FILES[1])]
    skills = [(row["codigo"], curriculum_clause(row["texto"])) for row in read_tsv(raw / FILES[2])]
    lexicon.learn_nouns(text for _, text in help_rows)
    usage = Usage([sentence.text for sentence in news] + [text for _, text in help_rows + skills])
    sources = {
        "ajuda": [plain_sentence(*row, lexicon) for row in help_rows],
        "noticias": news,
        "curriculo": [plain_sentence(*row, lexicon) for row in skills],
    }
    return sources, lexicon, usage


def build(raw):
    """(fonte, parte) → linhas"""
    sources, lexicon, usage = read_sources(raw)
    table = {}
    for source, sentences in sources.items():
        parts = defaultdict(list)
        for sentence in distinct(sentence for sentence in sentences if well_formed(sentence.text)):
            faults = all_faults(sentence, lexicon, usage)
            if sum(map(len, faults.values())) >= MIN_CHOICES:
                part = OUT if source == "curriculo" else split_of(source, sentence.document)
                parts[part].append((sentence, faults))
        for part in (*dict(SPLITS), OUT):
            if part in parts:
                table[source, part] = list(rows_of(source, parts[part]))
    return table


def markdown_counts(table):
    head = ["fonte", "parte", "frases", "certas", *RULES]
    lines = [head, ["---"] * 2 + ["---:"] * (len(head) - 2)]
    for (source, part), rows in table.items():
        kinds = Counter(row["kind"] for row in rows)
        lines.append([source, part, len(rows), kinds[None], *(kinds[kind] for kind in RULES)])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def check_raw(raw):
    missing = [name for name in FILES if not (raw / name).is_file()]
    if missing:
        sys.exit(
            f"A pasta '{raw}' não serve: falta {', '.join(missing)}. O script espera uma pasta com os quatro "
            f"arquivos {', '.join(FILES)}. Passe o caminho dela: python {Path(__file__).name} PASTA_BRUTA [DESTINO]"
        )


def main(arguments):
    if not 1 <= len(arguments) <= 2:
        sys.exit(f"Uso: python {Path(__file__).name} PASTA_BRUTA [DESTINO]")
    raw, target = Path(arguments[0]), Path(arguments[1]) if arguments[1:] else HERE
    check_raw(raw)
    table = build(raw)
    for (source, part), rows in table.items():
        write_jsonl(target / source / f"{part}.jsonl", rows)
    print(markdown_counts(table))


if __name__ == "__main__":
    main(sys.argv[1:])
