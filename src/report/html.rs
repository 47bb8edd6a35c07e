//! A report as one HTML file that needs no other: styles and pictures are inside, there is no script.

use super::document::{Block, Cell, Document, Kind, Table, Word};

/// On a narrow screen tables scroll sideways under a first column that stays, and pictures keep a
/// width at which their labels can be read.
const STYLE: &str = include_str!("style.css");

/// Sections before a page gets a list of them at its top.
const FEW: usize = 3;

/// The whole file.
pub fn render(document: &Document) -> String {
    let mut body = format!("<h1>{}</h1>\n", inline(&document.title));
    let sections: Vec<&str> = document.blocks.iter().filter_map(section).collect();
    if sections.len() > FEW {
        let links = sections.iter().enumerate();
        let links =
            links.map(|(number, title)| format!("<li><a href=\"#s{number}\">{}</a></li>\n", inline(title)));
        body.push_str(&format!("<nav><ul>\n{}</ul></nav>\n", links.collect::<String>()));
    }
    blocks(&document.blocks, &mut 0, &mut body);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(&document.title)
    )
}

fn section(block: &Block) -> Option<&str> {
    match block {
        Block::Heading(2, title) => Some(title),
        _ => None,
    }
}

fn blocks(blocks: &[Block], sections: &mut usize, html: &mut String) {
    for block in blocks {
        match block {
            Block::Heading(depth, title) => {
                let id = if section(block).is_some() {
                    *sections += 1;
                    format!(" id=\"s{}\"", *sections - 1)
                } else {
                    String::new()
                };
                html.push_str(&format!("<h{depth}{id}>{}</h{depth}>\n", inline(title)));
            }
            Block::Paragraph(text) => html.push_str(&format!("<p>{}</p>\n", inline(text))),
            Block::Table(table) => html.push_str(&render_table(table)),
            Block::Picture(picture) => {
                // The picture's own declaration of its size gives way to that of the page.
                let label = format!("<svg role=\"img\" aria-label=\"{}\" ", escape(&picture.alternative));
                let svg = picture.svg.trim_end().replacen("<svg ", &label, 1);
                let caption = inline(&picture.alternative);
                html.push_str(&format!(
                    "<figure>\n<figcaption>{caption}</figcaption>\n<div class=\"scroll\" tabindex=\"0\">{svg}</div>\n</figure>\n"
                ));
            }
            Block::Folded(_, title, inner) => {
                html.push_str(&format!("<details>\n<summary>{}</summary>\n", inline(title)));
                self::blocks(inner, sections, html);
                html.push_str("</details>\n");
            }
        }
    }
}

fn render_table(table: &Table) -> String {
    let mut html = "<div class=\"scroll\" tabindex=\"0\"><table>\n<thead>\n".to_owned();
    if table.columns.iter().any(|column| !column.group.is_empty()) {
        let groups = table.columns.chunk_by(|a, b| a.group == b.group);
        let cells = groups.map(|group| {
            let class = if group[0].group.is_empty() { "" } else { " class=\"group\"" };
            format!("<th colspan=\"{}\"{class}>{}</th>", group.len(), inline(&group[0].group))
        });
        html.push_str(&format!("<tr>{}</tr>\n", cells.collect::<String>()));
    }
    let heads =
        table.columns.iter().map(|column| format!("<th{}>{}</th>", class(column.kind), inline(&column.name)));
    html.push_str(&format!("<tr>{}</tr>\n</thead>\n<tbody>\n", heads.collect::<String>()));
    for row in &table.rows {
        let cells = row.iter().zip(&table.columns).enumerate().map(|(index, (cell, column))| {
            if index == 0 {
                format!("<th scope=\"row\">{}</th>", render_cell(cell))
            } else {
                format!("<td{}>{}</td>", class(column.kind), render_cell(cell))
            }
        });
        html.push_str(&format!("<tr>{}</tr>\n", cells.collect::<String>()));
    }
    html.push_str("</tbody>\n</table></div>\n");
    html
}

fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "",
        Kind::Number => " class=\"number\"",
        Kind::Quiet => " class=\"number quiet\"",
    }
}

fn render_cell(cell: &Cell) -> String {
    match cell {
        Cell::Plain(text) => inline(text),
        Cell::Words(words) => {
            let words = words.iter().map(|word| match word {
                Word::Right(text) => escape(text),
                Word::Wrong(text) => format!("<mark>{}</mark>", escape(text)),
                Word::Missing(text) => format!("<del>{}</del>", escape(text)),
            });
            words.collect::<Vec<_>>().join(" ")
        }
    }
}

/// Words between backticks become code; an odd backtick stays as it is.
fn inline(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    if parts.len().is_multiple_of(2) {
        return escape(text);
    }
    let parts = parts.iter().enumerate().map(|(index, part)| {
        if index.is_multiple_of(2) { escape(part) } else { format!("<code>{}</code>", escape(part)) }
    });
    parts.collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::document::{Column, Picture};
    use super::*;

    #[test]
    fn what_data_say_is_no_markup() {
        let words = Cell::Words(vec![
            Word::Wrong("<b>".into()),
            Word::Missing("a&b".into()),
            Word::Right("c".into()),
        ]);
        let columns = vec![
            Column::text("a<b"),
            Column::number("WER").within("dev"),
            Column::quiet("paper").within("dev"),
        ];
        let table = Table { columns, rows: vec![vec![words, "1".to_owned().into(), String::new().into()]] };
        let picture = Picture {
            name: "p.svg".into(),
            alternative: "say \"x\"".into(),
            svg: "<svg width=\"9\" viewBox=\"0 0 9 9\"></svg>\n".into(),
        };
        let document = Document {
            title: "A & B".into(),
            blocks: vec![
                Block::Heading(2, "one".into()),
                Block::Table(table),
                Block::Folded(3, "more".into(), vec![Block::Paragraph("an `x < y` and `".into())]),
                Block::Picture(picture),
            ],
        };
        let html = render(&document);
        for part in [
            "<title>A &amp; B</title>",
            "<h2 id=\"s0\">one</h2>",
            "<th colspan=\"1\"></th><th colspan=\"2\" class=\"group\">dev</th>",
            "<th>a&lt;b</th><th class=\"number\">WER</th><th class=\"number quiet\">paper</th>",
            "<th scope=\"row\"><mark>&lt;b&gt;</mark> <del>a&amp;b</del> c</th>",
            "<details>\n<summary>more</summary>\n<p>an `x &lt; y` and `</p>",
            "<svg role=\"img\" aria-label=\"say &quot;x&quot;\" width=\"9\"",
        ] {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        assert!(!html.contains("<nav>"), "one section needs no list");
        assert_eq!(inline("a `b` c"), "a <code>b</code> c");
    }
}
