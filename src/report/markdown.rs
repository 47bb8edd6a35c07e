//! A report as Markdown that also reads well as plain text.

use super::document::{Block, Cell, Document, Kind, Table};

/// Columns of plain text before a line is broken.
const WIDTH: usize = 110;

/// The page as Markdown; pictures are links to their files.
pub fn render(document: &Document) -> String {
    let mut text = format!("# {}\n", document.title);
    blocks(&document.blocks, &mut text);
    text
}

fn blocks(blocks: &[Block], text: &mut String) {
    for block in blocks {
        text.push('\n');
        match block {
            Block::Heading(depth, heading) => heading_line(*depth, heading, text),
            Block::Paragraph(paragraph) => text.push_str(&wrap(paragraph)),
            Block::Table(table) => text.push_str(&render_table(table)),
            Block::Picture(picture) => {
                text.push_str(&format!("![{}]({})\n", picture.alternative, picture.name));
            }
            Block::Folded(depth, heading, inner) => {
                heading_line(*depth, heading, text);
                self::blocks(inner, text);
            }
        }
    }
}

fn heading_line(depth: usize, heading: &str, text: &mut String) {
    text.push_str(&format!("{} {heading}\n", "#".repeat(depth)));
}

/// Lines of at most [`WIDTH`] characters where words allow it.
fn wrap(paragraph: &str) -> String {
    let mut text = String::new();
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            text.push('\n');
            column = 0;
        } else if column > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
    text
}

/// Cells under a heading, in columns of equal width; texts to the left, numbers to the right.
fn render_table(table: &Table) -> String {
    let mut group = "";
    let mut heads = Vec::new();
    for column in &table.columns {
        // A group's name stands before the first of its columns.
        let first = !column.group.is_empty() && column.group != group;
        group = &column.group;
        heads.push(escape(&if first {
            format!("{}: {}", column.group, column.name)
        } else {
            column.name.clone()
        }));
    }
    let rows: Vec<Vec<String>> =
        table.rows.iter().map(|row| row.iter().map(|cell: &Cell| escape(&cell.plain())).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).chain(heads.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let left = |column: usize| table.columns.get(column).is_some_and(|c| c.kind == Kind::Text);
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if left(column) { format!(" {cell:<width$} |") } else { format!(" {cell:>width$} |") }
        });
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = widths.iter().enumerate().map(|(column, &width)| {
        let dashes = "-".repeat(width + 1);
        if left(column) { format!(":{dashes}|") } else { format!("{dashes}:|") }
    });
    let mut text = line(&heads);
    text.push_str(&format!("|{}\n", rule.collect::<String>()));
    rows.iter().for_each(|row| text.push_str(&line(row)));
    text
}

/// A cell's text: a bar would end the cell.
fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}

/// 1234567 as `1,234,567`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::document::{Column, Word};
    use super::*;

    #[test]
    fn columns_line_up_under_their_groups() {
        let row = |cells: [&str; 3]| cells.map(|c| Cell::Plain(c.to_owned())).to_vec();
        let columns = vec![
            Column::text("Method"),
            Column::number("WER").within("dev|x"),
            Column::quiet("paper").within("dev|x"),
        ];
        let table = Table { columns, rows: vec![row(["CTC", "1.5", ""]), row(["", "10.25", "8.66"])] };
        assert_eq!(
            render_table(&table),
            "| Method | dev\\|x: WER | paper |\n|:-------|------------:|------:|\n\
             | CTC    |         1.5 |       |\n|        |       10.25 |  8.66 |\n"
        );
    }

    #[test]
    fn paragraphs_are_broken_and_words_lose_their_marks() {
        let text = wrap(&"word ".repeat(40));
        assert!(text.lines().all(|line| line.len() <= WIDTH) && text.lines().count() == 2, "{text}");
        let words = vec![Word::Right("a".into()), Word::Missing("b".into()), Word::Wrong("c".into())];
        assert_eq!(Cell::Words(words).plain(), "a c");
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
