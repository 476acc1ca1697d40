//! The page of `inspect --html` in a real browser: its content, its requests, and its use with a keyboard.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::browser::Browser;
use super::support::Double;
use super::support::image::{Image, Layer, Style, platform, with_config};
use super::support::images::{greeting, linux_and_windows, shared_base};
use super::support::layout::write_layout;
use super::support::referrers;
use super::{Cli, cli};

/// Markup, and characters that turn the direction of writing.
const HOSTILE: &str = "<script>window.hit=1</script><img src=x onerror=hit=1>\"'>\u{202e}\u{2066}&amp;";

/// Texts, bars and edges with too little contrast to their background (WCAG 2.2, 1.4.3 and 1.4.11, level AA).
const CONTRAST: &str = r"(() => {
    const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const colour = text => { const n = text.match(/[\d.]+/g).map(Number); return n[3] === 0 ? null : n; };
    const behind = e => e ? colour(getComputedStyle(e).backgroundColor) || behind(e.parentElement) : [255, 255, 255];
    const faults = new Set();
    const check = (e, text, least, back) => {
        const [a, b] = [light(colour(text)), light(back)];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < least) faults.add(`${e.localName}.${e.getAttribute('class')}: ${ratio.toFixed(2)} of ${least}`);
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let seen = 0;
    while (texts.nextNode()) {
        const e = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !e.getClientRects().length) continue;
        seen += 1;
        check(e, getComputedStyle(e)[e.closest('svg') ? 'fill' : 'color'], 4.5, behind(e));
    }
    for (const e of document.querySelectorAll('rect')) check(e, getComputedStyle(e).fill, 3, behind(e));
    for (const e of document.querySelectorAll('.key')) check(e, getComputedStyle(e).backgroundColor, 3, behind(e.parentElement));
    for (const e of document.querySelectorAll('input')) check(e, getComputedStyle(e).borderColor, 3, behind(e.parentElement));
    if (seen < 100) faults.add(`only ${seen} texts are visible`);
    return [...faults];
})()";

/// Digests that are broken over two lines.
const BROKEN_DIGESTS: &str = r"[...document.querySelectorAll('code')]
    .filter(e => /^sha256:[0-9a-f]{64}$/.test(e.textContent) && e.getClientRects().length > 1).map(e => e.textContent)";

/// An image whose texts are made to leave their place in a page.
fn hostile_image(text: &str) -> Image {
    let layer = Layer::noise(4, 900);
    let config = json!({
        "os": format!("linux{HOSTILE}"), "architecture": "amd64", "created": HOSTILE,
        "config": {"Labels": {"long": text.repeat(100_000 / text.len()), HOSTILE: HOSTILE, "ends": "</pre></table></main>"}},
        "history": [{"created_by": HOSTILE}, {"created_by": text.repeat(100_000 / text.len())}, {"comment": "]]><!--"}],
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    });
    let config_type = "application/vnd.oci.image.config.v1+json";
    let mut image = with_config(Style::Oci, config_type, config.to_string().into(), &[layer]);
    image.platform = platform("linux/amd64");
    image
}

/// Writes the page of images of every kind: complete, with platforms left out, signed, sharing layers, hostile, and
/// unusable.
fn page(cli: &Cli) -> PathBuf {
    let registry = Double::new();
    greeting().push(&registry, "library/greeting", "1.0");
    linux_and_windows(Style::Oci).push(&registry, "a/multi", "1");
    for (number, image) in shared_base(3, 60_000).iter().enumerate() {
        let repository = format!("b/image{number}");
        image.push(&registry, &repository, "1");
        referrers::refer(&registry, &repository, &image.root, referrers::BUNDLE, "signature");
        referrers::refer(&registry, &repository, &image.root, "text/<b>odd</b>", "odd");
    }
    let names = [
        "library/greeting:1.0",
        "a/multi:1",
        "b/image0:1",
        "b/image1:1",
        "b/image2:1",
    ];
    let names = names.map(|name| format!("{}/{name}", registry.host()));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    cli.succeed(&[&["export", "-o", "b.tar"][..], &names].concat());
    let hostile = format!("h {}.tar", HOSTILE.replace('/', "|"));
    let [first, second, third] = [HOSTILE, "label ", "third "].map(hostile_image);
    let broken = format!("quay.io/{HOSTILE}");
    let images = [
        ("quay.io/h/one:1", &first),
        ("quay.io/h/two:1", &second),
        (&*broken, &third),
    ];
    write_layout(&cli.path(&hostile), &images);
    cli.run(&["inspect", "b.tar", &hostile, "--html", "page.html"])
        .expect_code(1);
    cli.path("page.html")
}

/// What the page asked for and complained about.
fn complaints(browser: &mut Browser, page: &Path) -> Vec<String> {
    let own = format!("file://{}", page.display());
    let mut complaints = Vec::new();
    for event in browser.events.drain(..) {
        match event["method"].as_str().unwrap_or_default() {
            "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded" => {
                complaints.push(event.to_string());
            }
            "Network.requestWillBeSent" => {
                let url = event["params"]["request"]["url"].as_str().unwrap();
                if url != own && !url.starts_with("data:") {
                    complaints.push(format!("asked for {url}"));
                }
            }
            _ => {}
        }
    }
    complaints
}

#[test]
fn the_page_is_shown_without_a_word_and_can_be_used_by_keyboard_and_read_in_every_light() {
    let Some(mut browser) = Browser::start("the page of `inspect --html` in a browser") else {
        return;
    };
    let cli = cli();
    let page = page(&cli);
    browser.show_as("screen", "light", 1280);
    browser.open(&page);
    assert_eq!(complaints(&mut browser, &page), [""; 0]);
    shows_all_as_text(&mut browser);
    works_by_keyboard(&mut browser);
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR"));
    browser.open(&page);
    for (media, scheme, width) in [
        ("screen", "light", 1280),
        ("screen", "dark", 1280),
        ("screen", "light", 360),
        ("print", "light", 718),
        ("print", "dark", 718),
    ] {
        browser.show_as(media, scheme, width);
        let name = format!("page-{media}-{scheme}-{width}.png");
        browser.picture(&pictures.join(name));
        // What is folded up counts as well.
        browser.value("document.querySelectorAll('details').forEach(details => details.open = true)");
        let faults = browser.value(CONTRAST);
        assert_eq!(faults, json!([]), "{media} {scheme}");
        let wider = browser.value("document.documentElement.scrollWidth - innerWidth");
        assert!(
            wider.as_i64().unwrap() <= 0,
            "{media} {width}: the page is {wider} too wide"
        );
        if media == "print" {
            assert_eq!(browser.value(BROKEN_DIGESTS), json!([]), "digests on paper");
        }
        let name = format!("page-{media}-{scheme}-{width}-open.png");
        browser.picture(&pictures.join(name));
        browser.value("document.querySelectorAll('details').forEach(details => details.open = false)");
    }
    browser.show_as("screen", "light", 1280);
    browser.value("window.opened = 0; addEventListener('beforeprint', () => opened = document.querySelectorAll('details[open]').length)");
    browser.print(&pictures.join("page.pdf"));
    assert_eq!(browser.value("opened"), 7, "on paper everything is unfolded");
    assert_eq!(browser.value("document.querySelectorAll('details[open]').length"), 0);
    assert_eq!(complaints(&mut browser, &page), [""; 0]);
}

/// Every image is shown, and no text of a bundle has become an element, a script or a change of direction.
fn shows_all_as_text(browser: &mut Browser) {
    assert_eq!(browser.value("document.querySelectorAll('tbody.image').length"), 7);
    assert_eq!(
        browser.value("document.getElementById('found').textContent"),
        "7 of 7 images"
    );
    assert_eq!(browser.value("typeof window.hit"), "undefined");
    let known = "html head meta title link style body main h1 h2 h3 p br dl div dt dd span label input table thead tbody tr th td button \
                 code details summary pre svg text rect ul li script";
    let elements = browser.value("[...new Set([...document.querySelectorAll('*')].map(e => e.localName))]");
    for element in elements.as_array().unwrap() {
        assert!(known.split(' ').any(|known| element == known), "<{element}>");
    }
    assert_eq!(browser.value("document.scripts.length"), 1);
    let attributes =
        browser.value("[...new Set([...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames()))]");
    assert!(!attributes.to_string().contains("\"on"), "{attributes}");
    let text = browser.value("document.body.textContent").as_str().unwrap().to_owned();
    let shown = HOSTILE
        .replace('\u{202e}', "\\u{202e}")
        .replace('\u{2066}', "\\u{2066}");
    // The name of the file, the platform, the time, a label and a step, and the unusable name.
    let count = text.matches("<script>window.hit=1</script>").count();
    assert!(text.contains(&shown) && count >= 6, "{count} times");
    assert!(
        text.contains("ends=</pre></table></main>") && text.contains("text/<b>odd</b>"),
        "{text}"
    );
    assert!(!text.contains(|c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')));
    assert!(text.contains(" bytes more)"), "the long texts are cut");
    for word in [
        "vnd.dev.sigstore",
        "2 referrers",
        "windows/amd64",
        "attestation",
        "Not in the bundle, and why",
        "Saved by sharing",
    ] {
        assert!(text.contains(word), "no `{word}`");
    }
}

/// Every control can be reached in the order of the page, is visible then, and works without a pointer.
fn works_by_keyboard(browser: &mut Browser) {
    const FOCUS: &str = "(() => { const e = document.activeElement; const style = getComputedStyle(e); \
        return [e.localName, e.textContent.trim() || e.id, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2]; })()";
    let mut order = Vec::new();
    loop {
        browser.press("Tab");
        let focus = browser.value(FOCUS);
        if focus[0] == "body" || order.len() > 60 {
            break;
        }
        assert_eq!(focus[2], true, "the focus cannot be seen on {focus}");
        order.push(focus);
    }
    let names: Vec<&str> = order.iter().map(|focus| focus[0].as_str().unwrap()).collect();
    let shown = [
        "div", "input", "div", "button", "button", "button", "button", "button", "summary",
    ];
    assert_eq!(names[..9], shown, "{order:?}");
    assert_eq!(names.iter().filter(|name| **name == "summary").count(), 7);
    let first = |browser: &mut Browser| browser.value("document.querySelector('tbody.image .name').textContent");
    let sorted = |browser: &mut Browser| {
        browser.value("[...document.querySelectorAll('#images thead th')].map(th => th.ariaSort)")
    };
    browser.value("document.querySelectorAll('th button')[2].focus()");
    browser.press("Tab");
    browser.press("Enter");
    assert_eq!(sorted(browser), json!([null, null, null, "ascending", null]));
    let smallest = first(browser);
    browser.press("Enter");
    let largest = first(browser);
    assert_ne!(smallest, largest);
    assert_eq!(
        browser.value("document.activeElement.textContent"),
        "Size",
        "the focus stays"
    );
    browser.press("Tab");
    browser.press("Tab");
    browser.press("Enter");
    assert_eq!(browser.value("document.querySelectorAll('details[open]').length"), 1);
    browser.value("document.getElementById('search').focus()");
    browser.type_in("B/IMAGE");
    assert_eq!(
        browser.value("document.getElementById('found').textContent"),
        "3 of 7 images"
    );
    let visible = "[...document.querySelectorAll('tbody.image')].filter(e => e.getClientRects().length).length";
    assert_eq!(browser.value(visible), 3);
}
