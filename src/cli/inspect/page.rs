//! An inventory as one HTML page without external resources, for the person who approves a transfer.
//!
//! All texts of a bundle are escaped, and a Content-Security-Policy in the page allows only the page's own script. The page has
//! no date, so that the same bundle gives the same page.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use docker_mirror::{
    Choice, Content, Details, Digest, Inventory, InventoryImage, Part, Sharing, counts_in_words, human_bytes,
    platform_counts, platforms_alone, quote,
};

use super::chart;
use super::markup::escape;
use crate::cli::output::counted;

/// Text that every page begins with.
pub(in crate::cli) const START: &str = "<!doctype html>\n<!-- docker-mirror inspect -->\n";

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Approximate maximum size of all labels and history in the page, in bytes.
const TEXTS: usize = 1 << 20;

/// Maximum number of layers that the page lists. Further images show only the number of their layers.
const MAX_LAYERS: usize = 20_000;

/// Name of the platform of attestations.
const ATTESTATION: &str = "attestation";

/// Maximum length of each list of one image.
const MAX_LISTED: usize = 200;

/// Approximate maximum size of the page in bytes. Further images have one row each, and no details.
const MAX_PAGE: usize = 16 << 20;

/// Maximum number of platforms listed for an image once the page is full.
const FEW: usize = 3;

/// A page that is being written.
struct Page<'a> {
    out: String,
    sharing: &'a Sharing,
    /// Maximum size of the texts of one config, in bytes.
    texts: usize,
    layers_left: usize,
}

/// Returns the page of an inventory. `files` are the paths of the bundles, with their sizes in bytes if they are files.
pub(in crate::cli) fn render(inventory: &Inventory, sharing: &Sharing, files: &[(String, Option<u64>)]) -> String {
    let contents = inventory.images.iter().map(|image| &image.content);
    let configs = contents
        .flat_map(|content| &content.parts)
        .filter(|part| part.details.is_some())
        .count();
    let mut page = Page {
        out: String::from(START),
        sharing,
        texts: (TEXTS / configs.max(1)).clamp(300, 20_000),
        layers_left: MAX_LAYERS,
    };
    page.head();
    page.totals(inventory);
    page.unread(files);
    page.out.push_str("<h2>Sizes</h2>\n<p class=\"dim\">Compressed, as they are stored and transferred.<span class=\"key own\"></span>of the image alone<span class=\"key shared\"></span>shared with other images</p>\n");
    chart::draw(&mut page.out, inventory, sharing);
    page.images(inventory);
    page.absent(inventory);
    let _ = write!(page.out, "</main>\n<script>{SCRIPT}</script>\n");
    page.out
}

/// Returns the hash source of a script or a style for the Content-Security-Policy, such as `'sha256-…'`.
fn policy_sum(content: &str) -> String {
    let hex = Digest::sha256(content.as_bytes()).hex();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap_or(0);
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
    format!("'sha256-{}'", STANDARD.encode(bytes))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    escape(&mut out, text);
    out
}

/// Returns the first `most` texts and the number of further texts.
fn list<'a>(texts: impl Iterator<Item = &'a str>, most: usize) -> String {
    let mut texts = texts.fuse();
    let shown = texts.by_ref().take(most).map(escaped).collect::<Vec<_>>().join(", ");
    match texts.count() {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Returns the numbers of attestations and referrers (such as signatures) that are carried with an image.
fn companions(content: &Content) -> String {
    let attestations = content.kept.iter().filter(|kept| kept.platform == ATTESTATION).count() as u64;
    let referrers = content.referrers.len() as u64;
    let mut parts = Vec::new();
    if attestations > 0 {
        parts.push(counted(attestations, "attestation", "attestations"));
    }
    if referrers > 0 {
        parts.push(counted(referrers, "referrer", "referrers"));
    }
    match parts.is_empty() {
        true => String::new(),
        false => format!("<br><span class=\"dim\">with {}</span>", parts.join(", ")),
    }
}

impl Page<'_> {
    fn head(&mut self) {
        let (style, script) = (policy_sum(STYLE), policy_sum(SCRIPT));
        let _ = write!(
            self.out,
            "<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src {style}; script-src {script}; base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>Contents of a bundle of container images</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>{STYLE}</style>\n\
             <main>\n<h1>Contents of a bundle of container images</h1>\n"
        );
    }

    fn totals(&mut self, inventory: &Inventory) {
        let totals = self.sharing.totals();
        let mut archives: Vec<&str> = inventory.images.iter().map(|image| &*image.archive).collect();
        archives.dedup();
        let _ = write!(
            self.out,
            "<p class=\"name\">{}</p>\n<dl class=\"totals\">",
            list(archives.into_iter(), MAX_LISTED)
        );
        let number = |number: usize| number.to_string();
        for (what, value) in [
            ("Images", number(totals.images)),
            ("Platforms", number(totals.platforms)),
            ("Manifests", number(totals.manifests)),
            ("Blobs", number(totals.blobs)),
            ("Size", human_bytes(totals.bytes)),
            ("Saved by sharing", human_bytes(totals.saved_bytes)),
            ("Not usable", number(inventory.broken.len())),
        ] {
            let _ = write!(self.out, "<div><dt>{what}<dd>{value}</div>");
        }
        self.out.push_str("</dl>\n");
    }

    /// Says which files the page describes, what was not read, and how to check it.
    fn unread(&mut self, files: &[(String, Option<u64>)]) {
        self.out.push_str("<p class=\"dim\">Made by docker-mirror ");
        self.out.push_str(env!("CARGO_PKG_VERSION"));
        self.out.push_str(" from the documents of");
        for (path, size) in files.iter().take(MAX_LISTED) {
            let size = size.map(|size| format!(" ({size} bytes)")).unwrap_or_default();
            let _ = write!(
                self.out,
                " <span class=\"name\">{}</span>{size},",
                escaped(&quote(path).to_string())
            );
        }
        self.out.push_str(
            " whose layers were not read. <code>docker-mirror verify</code> checks every byte of a bundle, and prints the SHA-256 of \
             the file, as <code>sha256sum</code> does.</p>\n",
        );
    }

    fn images(&mut self, inventory: &Inventory) {
        self.out.push_str(
            "<h2 id=\"list\">Images</h2>\n<p class=\"tools\" id=\"tools\" hidden><label>Search <input id=\"search\" type=\"search\" autocomplete=\"off\"></label> <span id=\"found\" role=\"status\" class=\"dim\"></span></p>\n\
             <div class=\"scroll\" role=\"region\" aria-labelledby=\"list\" tabindex=\"0\"><table id=\"images\" class=\"wide\">\n<thead><tr>",
        );
        for (name, class) in [
            ("Image", ""),
            ("Platforms", ""),
            ("Layers", " class=\"n\""),
            ("Size", " class=\"n\""),
            ("Shared", " class=\"n\""),
        ] {
            let _ = write!(
                self.out,
                "<th scope=\"col\"{class}><button type=\"button\">{name}</button>"
            );
        }
        self.out.push_str("</thead>\n");
        for image in &inventory.images {
            self.image(image);
        }
        self.out.push_str("</table></div>\n");
    }

    fn image(&mut self, image: &InventoryImage) {
        let content = &image.content;
        let is_full = self.out.len() > MAX_PAGE;
        let names: Vec<_> = content.platform_names().collect();
        let (bytes, shared) = (content.bytes(), self.sharing.shared_bytes(image));
        let _ = writeln!(
            self.out,
            "<tbody class=\"image\"><tr><td class=\"name\">{}<td>{}{}<td class=\"n\" data-value=\"{3}\">{3}<td class=\"n\" data-value=\"{bytes}\">{4}<td class=\"n\" data-value=\"{shared}\">{5}",
            escaped(&image.reference),
            list(
                names
                    .iter()
                    .map(|name| &**name)
                    .filter(|platform| *platform != ATTESTATION),
                if is_full { FEW } else { MAX_LISTED }
            ),
            companions(content),
            content.layers(),
            human_bytes(bytes),
            human_bytes(shared)
        );
        let _ = write!(self.out, "<tr><td colspan=\"5\"><code>{}</code>", image.digest());
        if is_full {
            self.out
                .push_str("<p class=\"dim\">The page is too large for details of this image.</p></tbody>\n");
            return;
        }
        self.out
            .push_str("<details><summary>Digests, layers, labels, history</summary>");
        self.notes(image);
        self.parts(content);
        self.out.push_str("</details></tbody>\n");
    }

    /// Writes how an image differs from its source, and its referrers.
    fn notes(&mut self, image: &InventoryImage) {
        let content = &image.content;
        let mut note = |text: String| {
            let _ = write!(self.out, "<p>{text}</p>");
        };
        match (image.index, &content.filtered) {
            (Choice::Filtered, Some(_)) => note(format!(
                "The index was filtered; the source has <code>{}</code>.",
                content.original
            )),
            (Choice::Sparse, Some(filtered)) => note(format!(
                "The index is that of the source, and lists platforms that are not here. Filtered it is <code>{filtered}</code>."
            )),
            _ => {}
        }
        if content.rebuilt {
            note("The archive has no manifest: it was built, and its digest is new.".to_owned());
        }
        if let Some(subject) = &image.belongs_to {
            note(format!(
                "It belongs to <span class=\"name\">{}</span>.",
                escaped(subject)
            ));
        }
        for referrer in content.referrers.iter().take(MAX_LISTED) {
            let what = escaped(&referrer.media_type);
            note(format!("With it travels <code>{}</code> ({what}).", referrer.digest));
        }
        let more = content.referrers.len().saturating_sub(MAX_LISTED);
        if more > 0 {
            note(format!("{more} more that refer to it are not listed here."));
        }
    }

    fn parts(&mut self, content: &Content) {
        let mut shown: Option<Arc<Details>> = None;
        for part in content.parts.iter().take(MAX_LISTED) {
            self.part(content, part);
            // Platforms often have the same labels and history, which are then shown once.
            let is_new = part.details.as_ref().is_some_and(|details| {
                let same = |other: &Arc<Details>| other.labels == details.labels && other.history == details.history;
                !shown.as_ref().is_some_and(same)
            });
            match part.details.as_ref() {
                Some(details) if is_new => self.details(details),
                Some(_) => self
                    .out
                    .push_str("<p class=\"dim\">Labels and history are those above.</p>"),
                None => {}
            }
            shown = part.details.clone().or(shown);
        }
        let more = content.parts.len().saturating_sub(MAX_LISTED);
        if more > 0 {
            let _ = write!(
                self.out,
                "<p>{} not listed here.</p>",
                counted(more as u64, "manifest is", "manifests are")
            );
        }
    }

    fn part(&mut self, content: &Content, part: &Part) {
        let Some(manifest) = content.manifests.get(part.manifest) else {
            return;
        };
        let _ = write!(
            self.out,
            "<h3>{}</h3><table class=\"layers\"><tr><td>manifest<td><code>{}</code><td class=\"n\">{}",
            escaped(content.label_of(part)),
            manifest.digest,
            human_bytes(manifest.size)
        );
        let mut piece = |what: &str, number: usize| {
            if let Some(piece) = content.blobs.get(number) {
                let shared = if self.sharing.is_shared(&piece.digest) {
                    "<td>shared"
                } else {
                    ""
                };
                let size = human_bytes(piece.size);
                let _ = write!(
                    self.out,
                    "<tr><td>{what}<td><code>{}</code><td class=\"n\">{size}{shared}",
                    piece.digest
                );
            }
        };
        if let Some(config) = part.config {
            piece("config", config);
        }
        let listed = part.layers.len().min(self.layers_left).min(MAX_LISTED);
        self.layers_left -= listed;
        part.layers.iter().take(listed).for_each(|layer| piece("layer", *layer));
        self.out.push_str("</table>");
        let more = part.layers.len() - listed;
        if more > 0 {
            let _ = write!(
                self.out,
                "<p>{} not listed here.</p>",
                counted(more as u64, "layer is", "layers are")
            );
        }
    }

    fn details(&mut self, details: &Details) {
        let mut left = self.texts;
        let mut cut = 0;
        let mut fits = |text: &str| {
            let fits = text.len() <= left;
            left = left.saturating_sub(text.len());
            cut += usize::from(!fits);
            fits
        };
        let created = details.created.as_deref().map(escaped).unwrap_or_default();
        let labels: Vec<String> = details
            .labels
            .iter()
            .map(|(name, value)| format!("{}={}", escaped(name), escaped(value)))
            .filter(|label| fits(label))
            .collect();
        let steps: Vec<String> = details
            .history
            .iter()
            .filter(|step| !step.is_empty())
            .map(|step| escaped(step))
            .filter(|step| fits(step))
            .collect();
        if !created.is_empty() {
            let _ = write!(self.out, "<p>Created: {created}</p>");
        }
        for (what, texts) in [("Labels", labels), ("History", steps)] {
            if !texts.is_empty() {
                let _ = write!(
                    self.out,
                    "<p class=\"dim\">{what}</p><pre tabindex=\"0\">{}</pre>",
                    texts.join("\n")
                );
            }
        }
        let more = details.more + cut;
        if more > 0 {
            let _ = write!(
                self.out,
                "<p class=\"dim\">{} too long for this page.</p>",
                counted(more as u64, "label or step is", "labels and steps are")
            );
        }
    }

    /// Writes the table of missing platforms, blobs and images with the reasons, and a list of warnings.
    fn absent(&mut self, inventory: &Inventory) {
        let mut rows = String::new();
        let mut left = 10 * MAX_LISTED;
        let mut row = |name: &str, digest: Option<&Digest>, what: &str, why: &str| {
            if left > 0 && rows.len() < MAX_PAGE {
                left -= 1;
                let digest = digest.map_or_else(String::new, |digest| format!("<br><code>{digest}</code>"));
                let _ = write!(
                    rows,
                    "<tr><td><span class=\"name\">{}</span>{digest}<td>{what}<td>{}",
                    escaped(name),
                    escaped(why)
                );
            }
        };
        for image in &inventory.images {
            let content = &image.content;
            if !content.dropped.is_empty() {
                let [_, indexes, attestations] = platform_counts(&content.dropped);
                let mut parts = vec![list(platforms_alone(&content.dropped), MAX_LISTED)];
                parts.retain(|part| !part.is_empty());
                parts.extend(counts_in_words([0, indexes, attestations]));
                let platforms = parts.join(", ");
                row(
                    &image.reference,
                    None,
                    &platforms,
                    "platforms that were not chosen when the bundle was made",
                );
            }
            for left in content
                .left_out
                .iter()
                .chain(content.left_out_referrers.iter())
                .take(MAX_LISTED)
            {
                let what = format!("<span class=\"name\">{}</span>", escaped(&left.media_type));
                row(&image.reference, Some(&left.digest), &what, &left.reason);
            }
        }
        for missing in &inventory.missing {
            row(&missing.reference, None, "the image", &missing.reason);
        }
        for broken in &inventory.broken {
            row(
                &broken.label,
                None,
                "<span class=\"bad\">not usable</span>",
                &broken.error.full(),
            );
        }
        if !rows.is_empty() {
            let _ = writeln!(
                self.out,
                "<h2 id=\"absent\">Not in the bundle, and why</h2>\n<div class=\"scroll\" role=\"region\" aria-labelledby=\"absent\" tabindex=\"0\"><table class=\"wide absent\"><thead><tr><th scope=\"col\">Image<th scope=\"col\">What<th scope=\"col\">Why</thead>{rows}</table></div>"
            );
        }
        let totals = self.sharing.totals();
        let mut notes: Vec<String> = inventory.warnings.iter().map(|warning| escaped(warning)).collect();
        if totals.unreferenced_blobs > 0 {
            let bytes = human_bytes(totals.unreferenced_bytes);
            let blobs = counted(totals.unreferenced_blobs as u64, "blob", "blobs");
            notes.push(format!("{blobs} ({bytes}) in the bundle that no usable image names."));
        }
        if !notes.is_empty() {
            let _ = writeln!(self.out, "<h2>What is odd</h2>\n<ul><li>{}</ul>", notes.join("<li>"));
        }
    }
}
