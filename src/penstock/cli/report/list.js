// A list of any length: only the rows that can be seen are elements.

class List {
  // `draw(row, place)` fills an element; `open(place)` is for Enter and click.
  constructor(scroller, { height, label, head, columns, draw, open, choose }) {
    Object.assign(this, { scroller, height, draw, open, choose, count: 0, chosen: -1, pool: [] });
    scroller.setAttribute("role", "grid");
    scroller.setAttribute("aria-label", label);
    scroller.setAttribute("aria-colcount", columns);
    this.space = make("div", { class: "space", role: "rowgroup" });
    this.none = make("div", { class: "none", hidden: true });
    fill(scroller, head, this.space, this.none);
    this.offset = head ? 1 : 0;
    scroller.addEventListener("scroll", () => this.schedule(), { passive: true });
    scroller.addEventListener("keydown", (event) => this.pressed(event));
    new ResizeObserver(() => this.schedule()).observe(scroller);
  }

  show(count, nothing) {
    this.count = count;
    this.chosen = Math.min(this.chosen, count - 1);
    this.space.style.height = `${count * this.height}px`;
    this.scroller.setAttribute("aria-rowcount", count + this.offset);
    this.none.textContent = nothing;
    this.none.hidden = count > 0;
    this.refresh();
  }

  refresh() {
    for (const row of this.pool) row.place = -1;
    this.schedule();
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.render();
    });
  }

  render() {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / this.height) - 3);
    const seen = Math.ceil(this.scroller.clientHeight / this.height) + 6;
    const last = Math.min(this.count, first + seen);
    while (this.pool.length < seen) this.pool.push(this.made());
    const used = new Set();
    for (let place = first; place < last; place++) used.add(this.placed(place));
    for (const row of this.pool) if (!used.has(row)) row.hidden = true;
    const chosen = this.chosen >= first && this.chosen < last ? `${this.scroller.id}-${this.chosen}` : "";
    this.scroller.setAttribute("aria-activedescendant", chosen);
  }

  made() {
    const row = make("div", { class: "row", role: "row" });
    row.place = -1;
    row.addEventListener("click", () => {
      this.pick(row.place);
      this.open(row.place);
    });
    this.space.append(row);
    return row;
  }

  placed(place) {
    const row = this.pool[place % this.pool.length];
    if (row.place !== place) {
      row.place = place;
      row.id = `${this.scroller.id}-${place}`;
      row.setAttribute("aria-rowindex", place + 1 + this.offset);
      row.style.transform = `translateY(${place * this.height}px)`;
      row.replaceChildren();
      this.draw(row, place);
    }
    row.hidden = false;
    row.setAttribute("aria-selected", place === this.chosen);
    return row;
  }

  pressed(event) {
    if (event.target !== this.scroller) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.height) - 2);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.count, End: this.count };
    if (event.key in moves) this.pick(Math.max(this.chosen, moves[event.key] > 0 ? -1 : 0) + moves[event.key]);
    else if (event.key === "Enter" && this.chosen >= 0) this.open(this.chosen);
    else return;
    event.preventDefault();
  }

  pick(place) {
    if (!this.count) return;
    this.chosen = Math.min(Math.max(place, 0), this.count - 1);
    this.reveal();
    if (this.choose) this.choose(this.chosen);
  }

  reveal() {
    const { scroller, height } = this;
    const head = scroller.querySelector(".head")?.offsetHeight || 0;
    const top = this.chosen * height;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + height + head > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + height + head - scroller.clientHeight;
    this.schedule();
  }
}
