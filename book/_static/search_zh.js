// Sphinx splits a query at spaces, which Chinese does not have: 认知扭曲 would stay one word that no page holds.
// jieba cut the index, and the browser's own segmenter cuts otherwise (非/黑/即/白). So a Chinese run is cut by the index
// itself, its longest word first; a character that begins none of its words is passed over. Latin words stay whole.
globalThis.splitQuery = (query) => {
  const known = (word) => [Search._index.terms, Search._index.titleterms].some((words) => Object.hasOwn(words, word));
  const cut = (run) => {
    const words = [];
    for (let start = 0, end; start < run.length; start = end) {
      for (end = run.length; end > start + 1 && !known(run.slice(start, end)); end--);
      if (end > start + 1) words.push(run.slice(start, end)); // no word of one character is in the index
    }
    return words;
  };
  const runs = query.match(/\p{Script=Han}+|(?:(?!\p{Script=Han})[\p{L}\p{N}_])+/gu) || [];
  return runs.flatMap((run) => (/^\p{Script=Han}/u.test(run) ? cut(run) : [run]));
};
