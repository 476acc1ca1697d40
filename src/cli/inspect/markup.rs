//! Escaping of texts from bundles for the HTML page.

use docker_mirror::is_unsafe;

/// Appends a text to HTML, with markup, control characters and characters that change the writing direction escaped.
pub(super) fn escape(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push('\n'),
            '\t' => out.push(' '),
            c if is_unsafe(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup_or_turns_the_direction_of_writing() {
        let mut out = String::new();
        escape(
            &mut out,
            "<script>alert('1')</script>&\"\u{202e}\u{1b}[2J\u{2066}\na\tb é日",
        );
        assert_eq!(
            out,
            "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;\\u{202e}\\u{1b}[2J\\u{2066}\na b é日"
        );
    }
}
