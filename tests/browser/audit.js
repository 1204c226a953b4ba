// What is wrong with what is on the screen: contrast, edges, names, sizes, ids. An empty list is good.
() => {
    const rgb = (text) => {
        const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
        return {r, g, b, a};
    };
    const over = (top, under) => ({
        r: top.r * top.a + under.r * (1 - top.a), g: top.g * top.a + under.g * (1 - top.a),
        b: top.b * top.a + under.b * (1 - top.a), a: 1,
    });
    const luminance = ({r, g, b}) => [r, g, b].map((value) => value / 255)
        .map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
    const contrast = (a, b) => {
        const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
        return (high + 0.05) / (low + 0.05);
    };
    const groundOf = (node) => {
        const layers = [];
        for (let at = node; at; at = at.parentElement) layers.push(rgb(getComputedStyle(at).backgroundColor));
        return layers.reverse().reduce((under, top) => over(top, under), {r: 0, g: 0, b: 0, a: 1});
    };
    const shown = (node) => node.checkVisibility({visibilityProperty: true}) && node.getBoundingClientRect().width > 1;
    const nameOf = (node) => node.getAttribute("aria-label") || [...(node.labels ?? [])].map((each) => each.textContent).join(" ").trim()
        || node.textContent.trim() || node.title;
    const words = (node) => `${node.tagName.toLowerCase()}#${node.id} ${nameOf(node).slice(0, 30)}`;
    const faults = [];
    for (const node of document.querySelectorAll("body *")) {
        if (!shown(node)) continue;
        const style = getComputedStyle(node);
        const said = [...node.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim());
        if (said && !node.disabled && !node.classList.contains("swatch")) {
            const ratio = contrast(over(rgb(style.color), groundOf(node)), groundOf(node));
            if (ratio < 4.5) faults.push(`contrast ${ratio.toFixed(2)}: ${words(node)}`);
        }
        const control = node.matches("button, a[href], input, select, summary, [tabindex]");
        if (!control || node.matches(".visually-hidden")) continue;
        if (!nameOf(node)) faults.push(`no name: ${words(node)}`);
        const {width, height} = node.getBoundingClientRect();
        if (Math.min(width, height) < 19 || (node.matches("button") && Math.min(width, height) < 24)) {
            faults.push(`small ${width}x${height}: ${words(node)}`);
        }
        if (node.matches("button, select, input[type=text]") && style.borderTopWidth !== "0px" && !node.disabled && !node.readOnly
            && !node.matches(".quiet, .swatch, .primary")) {
            const ratio = contrast(over(rgb(style.borderTopColor), groundOf(node.parentElement)), groundOf(node.parentElement));
            if (ratio < 3) faults.push(`edge ${ratio.toFixed(2)}: ${words(node)}`);
        }
    }
    const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
    for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`twice: #${id}`);
    return faults;
}
