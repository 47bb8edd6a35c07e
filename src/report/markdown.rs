//! Markdown tables that also read well as plain text.

/// Rows of cells under a heading; all but the first `text_columns` are right-aligned.
pub fn table(heading: &[String], rows: &[Vec<String>], text_columns: usize) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|r| r.get(column)).chain(heading.get(column));
        cells.map(|c| c.chars().count()).max().unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &[String]| {
        let cells = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column < text_columns { format!(" {cell:<width$} |") } else { format!(" {cell:>width$} |") }
        });
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = widths.iter().enumerate().map(|(column, &width)| {
        if column < text_columns {
            format!(":{}|", "-".repeat(width + 1))
        } else {
            format!("{}:|", "-".repeat(width + 1))
        }
    });
    let mut text = line(heading);
    text.push_str(&format!("|{}\n", rule.collect::<String>()));
    rows.iter().for_each(|row| text.push_str(&line(row)));
    text
}

/// A cell's text: a bar would end the cell.
pub fn escape(text: &str) -> String {
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
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let text = table(&row(["Method", "x"]), &[row(["CTC", "1.5"]), row(["", "10.25"])], 1);
        assert_eq!(text, "| Method |     x |\n|:-------|------:|\n| CTC    |   1.5 |\n|        | 10.25 |\n");
    }

    #[test]
    fn digits_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
