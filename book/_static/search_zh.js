// Sphinx splits a query at spaces, which Chinese does not have: 认知扭曲 would stay one word that no page holds.
// The browser's own word segmenter splits it as the index did (jieba); Latin words pass through unchanged.
if (typeof Intl !== "undefined" && Intl.Segmenter) {
  const segmenter = new Intl.Segmenter("zh", { granularity: "word" });
  globalThis.splitQuery = (query) =>
    Array.from(segmenter.segment(query)).filter((part) => part.isWordLike).map((part) => part.segment);
}
