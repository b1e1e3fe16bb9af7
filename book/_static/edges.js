// A table or formula wider than the page scrolls in its own box. Telephones hide scroll bars, so the box fades at the
// edge beyond which there is more (book.css). The theme makes it a stop of the Tab key.
"use strict";

for (const box of document.querySelectorAll(".cell_output > .output, .pst-scrollable-table-container, div.math")) {
  const look = () => {
    const hidden = box.scrollWidth - box.clientWidth;
    box.classList.toggle("more-before", box.scrollLeft > 1);
    box.classList.toggle("more-after", box.scrollLeft < hidden - 1);
  };
  box.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(box); // also when a fold is opened
}
