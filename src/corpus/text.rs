//! Transcripts as sequences of the English labels.

use super::reason::{Fault, Reason};
use crate::error::{Error, Result};
use crate::labels::Labels;

/// Text of any source as `prep` would keep it as a transcript.
///
/// # Errors
/// When there are no words, or a character that no label can spell.
pub fn normalise_transcript(text: &str, labels: &Labels) -> Result<String> {
    normalise(text, labels).map_err(|fault| Error::invalid(fault.detail))
}

/// A transcript in the 29 labels: lower case, single spaces, plain apostrophes, Latin letters
/// without their diacritics.
///
/// OpenSeq2Seq (`scripts/import_librivox.py`) decomposes and drops what is not ASCII, NeMo's English
/// parser transliterates; both then lower-case. Where they agree (accented letters) so does this;
/// whatever has more than one reading (digits, hyphens, other scripts) is a fault that names the
/// character, never dropped.
pub(super) fn normalise(transcript: &str, labels: &Labels) -> Result<String, Fault> {
    let mut text = String::with_capacity(transcript.len());
    for c in transcript.chars().flat_map(char::to_lowercase) {
        match c {
            c if c.is_whitespace() => {
                if !text.is_empty() && !text.ends_with(' ') {
                    text.push(' ');
                }
            }
            '\u{2018}' | '\u{2019}' | '\u{02bc}' => text.push('\''),
            // Combining marks of text in decomposed form.
            '\u{0300}'..='\u{036f}' => {}
            c => match plain(c) {
                Some(letters) => text.push_str(letters),
                None => text.push(c),
            },
        }
    }
    text.truncate(text.trim_end().len());
    if text.is_empty() {
        return Err(Fault::new(Reason::TranscriptEmpty, "the transcript has no words"));
    }
    labels.encode(&text).map_err(|e| Fault::new(Reason::TranscriptCharacters, e.to_string()))?;
    Ok(text)
}

/// Lower-case letters of Latin-1 and the two ligatures without what is not ASCII.
fn plain(c: char) -> Option<&'static str> {
    Some(match c {
        'à'..='å' => "a",
        'æ' => "ae",
        'ç' => "c",
        'è'..='ë' => "e",
        'ì'..='ï' => "i",
        'ñ' => "n",
        'ò'..='ö' | 'ø' => "o",
        'ù'..='ü' => "u",
        'ý' | 'ÿ' => "y",
        'œ' => "oe",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transcripts_become_labels() {
        let text = |t: &str| normalise(t, &Labels::english());
        assert_eq!(text(" IT'S  A\tTEST \n").unwrap(), "it's a test");
        assert_eq!(text("CAFÉ CAFE\u{301} ŒUVRE \u{2019}TIS").unwrap(), "cafe cafe oeuvre 'tis");
        assert_eq!(text(" \t").unwrap_err().reason, Reason::TranscriptEmpty);
        for bad in ["CHAPTER 7", "WELL-KNOWN", "END.", "ЁЖ", "A\u{0}B"] {
            let fault = text(bad).unwrap_err();
            assert_eq!(fault.reason, Reason::TranscriptCharacters, "{bad}");
        }
        assert!(text("CHAPTER 7").unwrap_err().detail.contains("'7'"));
    }
}
