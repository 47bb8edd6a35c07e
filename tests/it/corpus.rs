//! `tutornet prep` and the corpora it makes.

use crate::harness::{exits, tutornet};

#[test]
fn help_is_there_and_wrong_usage_exits_with_2() {
    exits(tutornet().args(["prep", "librispeech", "--help"]), 0);
    exits(tutornet().args(["prep", "nothing"]), 2);
    exits(&mut tutornet(), 2);
}
