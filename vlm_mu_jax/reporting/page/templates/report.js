"use strict";
// The answers browser, the section marker and the hints at wide tables. Text from models only ever goes through textContent.
(() => {
  const at = (id) => document.getElementById(id);
  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };

  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.hash.slice(1), a]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      links.forEach((a, id) => (id === entry.target.id ? a.setAttribute("aria-current", "true") : a.removeAttribute("aria-current")));
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  links.forEach((_, id) => at(id) && seen.observe(at(id)));

  // A table wider than its card says that it can be pushed aside.
  const hints = [...document.querySelectorAll(".scroll")].map((part) => {
    const hint = make("p", "Swipe or scroll sideways for the other columns \u2192", "hint");
    hint.setAttribute("aria-hidden", "true"); // a screen reader walks the columns anyway
    part.before(hint);
    return [part, hint];
  });
  const measure = () => hints.forEach(([part, hint]) => {
    const wider = part.scrollWidth > part.clientWidth + 1;
    part.classList.toggle("wider", wider);
    hint.classList.toggle("wanted", wider);
  });
  measure();
  addEventListener("resize", measure);
  document.addEventListener("toggle", measure, true); // a table that was folded away has no width

  if (!at("answers-data")) return;
  const data = JSON.parse(at("answers-data").textContent);
  const RUN = 0, SET = 1, ID = 2, WORD = 3, LABEL = 4, QUESTION = 5, ANSWER = 6, IMAGE = 7, PAGE = 12;
  const known = ["answered", "refused", "irrelevant"];
  const filters = { run: RUN, set: SET, label: LABEL, word: WORD };
  let page = 0, shown = data.text === "shown", beside = new Map();

  const fill = (select, names, every) => {
    if (every !== undefined) select.append(new Option(every, ""));
    names.forEach((name, number) => select.append(new Option(name === "" ? "none" : name, String(number))));
  };
  fill(at("f-run"), data.runs, "all models");
  fill(at("f-beside"), data.runs, "nothing");
  fill(at("f-set"), data.sets, "all sets");
  fill(at("f-label"), data.labels, "all labels");
  fill(at("f-word"), data.words, "all words");
  for (const [name, number] of Object.entries(data.start)) at("f-" + name).value = String(number);
  at("browser").hidden = false;

  const key = (row) => JSON.stringify([row[SET], row[ID], row[WORD]]);
  const pickBeside = () => {
    const run = at("f-beside").value;
    beside = new Map(run === "" ? [] : data.rows.filter((row) => row[RUN] === Number(run)).map((row) => [key(row), row]));
  };

  const matching = () => {
    const wanted = Object.entries(filters).map(([name, field]) => [field, at("f-" + name).value]).filter(([, value]) => value !== "");
    const part = at("f-text").value.trim().toLowerCase();
    const readable = shown ? (row) => data.questions[row[QUESTION]] + "\n" + row[ANSWER] : () => "";
    const differs = (row) => { const other = beside.get(key(row)); return other && other[LABEL] !== row[LABEL]; };
    const differing = at("f-differ").checked;
    return data.rows.filter((row) =>
      wanted.every(([field, value]) => row[field] === Number(value)) && (!differing || differs(row)) &&
      (!part || (data.ids[row[ID]] + "\n" + readable(row)).toLowerCase().includes(part)));
  };

  const text = (words) => (shown ? make("span", words) : make("span", data.text === "absent" ? "text not in this file" : "text hidden", "hidden-text"));
  const picture = (row) => {
    const image = make("img");
    image.src = data.pictures[row[IMAGE]];
    image.alt = "image of question " + data.ids[row[ID]];
    return image;
  };
  const questionCell = (row) => {
    const cell = make("td", undefined, "text"), asked = make("div", undefined, "asked"), words = make("div");
    if (shown && row[IMAGE] in data.pictures) asked.append(picture(row));
    const blank = data.images[row[IMAGE]].replace("blank:", " · blank image, ");
    words.append(text(data.questions[row[QUESTION]]), make("span", data.ids[row[ID]] + blank, "sub"));
    asked.append(words);
    cell.append(asked);
    return cell;
  };
  const chip = (label, words) => make("span", words, "chip" + (known.includes(label) ? " " + label : ""));
  const answerCell = (row, run) => {
    const cell = make("td", undefined, "text answer");
    cell.dataset.run = run; // shown where the columns have no room for their headings
    const label = row ? data.labels[row[LABEL]] : "not asked";
    cell.append(chip(label, label));
    if (row) cell.append(text(row[ANSWER]));
    return cell;
  };

  const draw = () => {
    const rows = matching();
    const pages = Math.max(Math.ceil(rows.length / PAGE), 1);
    page = Math.min(page, pages - 1);
    const pair = at("f-beside").value;
    const heads = ["Model and set", "Question", "Answer"];
    if (pair !== "") heads.push("Answer of " + data.runs[Number(pair)]);
    at("heads").replaceChildren(...heads.map((name) => { const head = make("th", name); head.scope = "col"; return head; }));
    at("rows").replaceChildren(...rows.slice(page * PAGE, (page + 1) * PAGE).map((row) => {
      const line = make("tr"), asked = make("td");
      const word = data.words[row[WORD]];
      asked.append(make("strong", data.runs[row[RUN]]), make("span", data.sets[row[SET]] + (word ? " “" + word + "”" : ""), "sub"));
      line.append(asked, questionCell(row), answerCell(row, data.runs[row[RUN]]));
      if (pair !== "") line.append(answerCell(beside.get(key(row)), data.runs[Number(pair)]));
      return line;
    }));
    at("count").textContent = rows.length + " of " + data.rows.length + " answers";
    at("tally").replaceChildren(...data.labels.flatMap((label, number) => {
      const found = rows.filter((row) => row[LABEL] === number).length;
      return found ? [chip(label, found + " " + label)] : [];
    }));
    at("where").textContent = "page " + (page + 1) + " of " + pages;
    at("previous").disabled = page === 0;
    at("next").disabled = page >= pages - 1;
    measure();
  };

  const restart = () => {
    page = 0;
    at("f-differ").disabled = at("f-beside").value === "";
    if (at("f-differ").disabled) at("f-differ").checked = false;
    pickBeside();
    draw();
  };
  const form = document.querySelector(".filters");
  for (const kind of ["input", "change"]) form.addEventListener(kind, restart);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault(); // the form's own start is the story's, not "everything"
    form.querySelectorAll("select, input[type=search]").forEach((field) => { field.value = ""; });
    restart();
  });
  at("previous").addEventListener("click", () => { page -= 1; draw(); });
  at("next").addEventListener("click", () => { page += 1; draw(); });
  at("reveal")?.addEventListener("click", (event) => {
    shown = !shown;
    event.target.setAttribute("aria-pressed", String(shown));
    event.target.textContent = shown ? "Hide text" : "Show text";
    draw();
  });
  restart();
})();
