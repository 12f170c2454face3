// Draws the charts of a page from its JSON, and again when the reader's system changes its theme.
const dark = matchMedia("(prefers-color-scheme: dark)");
const report = JSON.parse(document.getElementById("report").textContent);
let drawing = 0;
async function draw() {
  const theme = dark.matches ? "dark" : "light", mine = ++drawing;
  for (const [name, spec] of Object.entries(report.specs)) {
    await new Promise(next => setTimeout(next));  // the page can be read and scrolled meanwhile
    if (mine !== drawing) return;  // the theme has changed since
    await vegaEmbed("#chart-" + name, spec, {
      config: report.themes[theme], renderer: "svg", tooltip: { theme: theme },
      actions: { export: true, source: false, compiled: false, editor: false }, downloadFileName: name,
    });
  }
}
draw();
dark.addEventListener("change", draw);
