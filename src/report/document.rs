//! What a report says, before it is Markdown ([`super::markdown`]) or HTML ([`super::html`]).

/// A page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Document {
    /// Its heading.
    pub title: String,
    /// What stands below, in order.
    pub blocks: Vec<Block>,
}

/// A part of a page. Texts are plain but for words between backticks, which are code.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// A heading of depth 2 or more; the page's own is 1.
    Heading(usize, String),
    /// Running text.
    Paragraph(String),
    /// Rows under a heading.
    Table(Table),
    /// A plot, a file of its own beside the Markdown.
    Picture(Picture),
    /// What only some readers want: closed at first in HTML, under a heading of this depth in Markdown.
    Folded(usize, String, Vec<Block>),
}

/// A plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Name of the file.
    pub name: String,
    /// What it shows, for those who cannot see it.
    pub alternative: String,
    /// The picture.
    pub svg: String,
}

/// Rows of cells; each row has as many as there are columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// From left to right.
    pub columns: Vec<Column>,
    /// From top to bottom.
    pub rows: Vec<Vec<Cell>>,
}

/// The head of a column.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// What it shares with its neighbours, such as the test set; empty for none.
    pub group: String,
    /// What it shows.
    pub name: String,
    /// How its cells are set.
    pub kind: Kind,
}

/// How the cells of a column are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To the left.
    Text,
    /// To the right.
    Number,
    /// To the right, less loud: what others published.
    Quiet,
}

impl Column {
    /// A column of texts.
    pub fn text(name: &str) -> Self {
        Self { group: String::new(), name: name.to_owned(), kind: Kind::Text }
    }

    /// A column of numbers.
    pub fn number(name: &str) -> Self {
        Self { kind: Kind::Number, ..Self::text(name) }
    }

    /// A column of numbers from elsewhere.
    pub fn quiet(name: &str) -> Self {
        Self { kind: Kind::Quiet, ..Self::text(name) }
    }

    /// The same column under the common heading `group`.
    pub fn within(self, group: &str) -> Self {
        Self { group: group.to_owned(), ..self }
    }
}

/// What stands in a row under a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// A text or a number.
    Plain(String),
    /// A hypothesis beside its reference.
    Words(Vec<Word>),
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Plain(text)
    }
}

/// A word of a hypothesis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// As the reference has it.
    Right(String),
    /// Another than the reference has, or one too many.
    Wrong(String),
    /// Only in the reference.
    Missing(String),
}

impl Cell {
    /// The text without marks: a hypothesis without what is missing from it.
    pub fn plain(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Words(words) => {
                let words = words.iter().filter_map(|word| match word {
                    Word::Right(text) | Word::Wrong(text) => Some(text.as_str()),
                    Word::Missing(_) => None,
                });
                words.collect::<Vec<_>>().join(" ")
            }
        }
    }
}

impl Document {
    /// Every picture, folded ones included.
    pub fn pictures(&self) -> Vec<&Picture> {
        fn of(blocks: &[Block]) -> Vec<&Picture> {
            let each = blocks.iter().flat_map(|block| match block {
                Block::Picture(picture) => vec![picture],
                Block::Folded(_, _, blocks) => of(blocks),
                _ => Vec::new(),
            });
            each.collect()
        }
        of(&self.blocks)
    }
}
