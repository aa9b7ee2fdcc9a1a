// O que o Marp não traz como padrão: português, letras de fórmula deste computador, nenhuma troca de emoji por imagem.
export default {
  lang: 'pt-BR',
  allowLocalFiles: true,
  options: {
    emoji: { unicode: false, shortcode: false },
    math: { lib: 'katex', katexFontPath: 'katex/' },
  },
}
