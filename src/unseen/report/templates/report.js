"use strict";
(() => {
  const { palettes, figures } = JSON.parse(document.getElementById("content").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    displaylogo: false,
    showSendToCloud: false,
    responsive: true,
    modeBarButtons: [["toImage"]],
    toImageButtonOptions: { format: "svg" },
  };

  // "@name" stands for a colour of the palette, in fields named for colours only
  const painted = (node, palette, isColour) => {
    if (Array.isArray(node)) return node.map((item) => painted(item, palette, isColour));
    if (node !== null && typeof node === "object") {
      return Object.fromEntries(
        Object.entries(node).map(([key, value]) => [key, painted(value, palette, /color$/.test(key))]),
      );
    }
    return isColour && typeof node === "string" && node.startsWith("@") ? palette[node.slice(1)] : node;
  };

  const draw = (palette, size) => {
    for (const [key, figure] of Object.entries(figures)) {
      const { data, layout } = painted(figure, palette, false);
      Plotly.react(key, data, { ...layout, ...size }, config);
    }
  };
  const show = () => draw(dark.matches ? palettes.dark : palettes.light, { autosize: true });

  show();
  dark.addEventListener("change", show);
  addEventListener("beforeprint", () => draw(palettes.light, { width: 620 }));
  addEventListener("afterprint", show);
})();
