//! A recurrent network through the program: as a student that is killed and goes on, and as a teacher.

use crate::fixture::{Fixture, THREE_STAGES, stop_at, update_of};
use crate::harness::{run_contents, succeeds};

#[test]
fn a_recurrent_student_resumes_byte_equal_and_teaches() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("recurrent", THREE_STAGES);
    let more = ["--set", "student=deepspeech2-nano", "--set", "checkpoint.every_updates=2"];
    succeeds(&mut fixture.train(&pipeline, "recurrent-whole", &more));
    let total = update_of(&fixture.at("recurrent-whole/metrics.jsonl"));
    let resume = [&more[..], &["--resume"]].concat();
    for updates in [3, total / 2] {
        stop_at(fixture, &pipeline, "recurrent-stopped", updates, "-KILL", &resume);
    }
    succeeds(&mut fixture.train(&pipeline, "recurrent-stopped", &resume));
    let [whole, stopped] =
        ["recurrent-whole", "recurrent-stopped"].map(|run| run_contents(&fixture.at(run), 1));
    assert_eq!(whole.keys().collect::<Vec<_>>(), stopped.keys().collect::<Vec<_>>());
    for (name, bytes) in &whole {
        assert!(*bytes == stopped[name], "{} differs", name.display());
    }

    fixture.cache(&fixture.at("recurrent-whole/student"), "dev-clean", "cache-recurrent");
    let stage = THREE_STAGES.replace("CACHE", &fixture.at("cache-recurrent").display().to_string());
    let pipeline = fixture.pipeline("of-recurrent", &stage);
    let two = ["--set", "stage.0.max_updates=2", "--set", "stage.1.max_updates=2"];
    succeeds(&mut fixture.train(&pipeline, "of-recurrent", &two));
    assert_eq!(update_of(&fixture.at("of-recurrent/metrics.jsonl")), 4);
}
