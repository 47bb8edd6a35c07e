//! `tutornet cache --shard I --of N`, `--slurm` and `cache seal`: several processes that write one cache.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use tutornet::models::{Model, presets};

use crate::fixture::{Fixture, stop_at};
use crate::harness::{Answer, contents, exits, fails, run, succeeds, tutornet};

/// 42 utterances in shards of two.
const SHARDS: usize = 21;

/// A corpus, a teacher and its caches as one process writes them, and a directory for others.
struct Work {
    directory: tempfile::TempDir,
}

fn shared() -> &'static Path {
    static SHARED: OnceLock<tempfile::TempDir> = OnceLock::new();
    let directory = SHARED.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/LibriSpeech");
        let mut prep = tutornet();
        prep.args(["prep", "librispeech"]).arg(tree).args([
            "--subset",
            "dev-clean",
            "--shard-utterances",
            "2",
        ]);
        succeeds(prep.arg("--out").arg(root.join("corpus")));
        let teacher = presets::find("jasper-nano").unwrap();
        Model::new(teacher, 1, &Device::flex()).unwrap().save(&root.join("model")).unwrap();
        for codec in ["f16", "klt:0.1"] {
            succeeds(cache(&root.join(codec)).args(["--codec", codec]));
        }
        directory
    });
    directory.path()
}

fn cache(out: &Path) -> Command {
    let mut command = tutornet();
    let root = out.parent().filter(|parent| parent.join("model").exists()).unwrap_or_else(|| shared());
    command.args(["cache", "--device", "cpu", "--workers", "1", "--batch-seconds", "5", "--model"]);
    command.arg(root.join("model")).arg("--corpus").arg(root.join("corpus")).arg("--out").arg(out);
    for variable in
        ["JOB_ID", "RESTART_COUNT", "ARRAY_TASK_ID", "ARRAY_TASK_MIN", "ARRAY_TASK_MAX", "ARRAY_TASK_COUNT"]
    {
        command.env_remove(format!("SLURM_{variable}"));
    }
    command
}

impl Work {
    fn new() -> Self {
        shared();
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn out(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    fn task(&self, shard: u32, of: u32) -> Command {
        let mut command = cache(&self.out());
        command.args(["--shard", &shard.to_string(), "--of", &of.to_string()]);
        command
    }

    fn seal(&self) -> Command {
        let mut command = tutornet();
        command.args(["cache", "seal"]).arg(self.out());
        command
    }

    /// Every file, hidden ones and empty ones too, is as one process writes it.
    #[track_caller]
    fn is_as_from_one_process(&self, codec: &str) {
        let (one, many) = (shared().join(codec), self.out());
        assert_eq!(self.names(), names(&one));
        assert!(contents(&one) == contents(&many), "files differ");
        succeeds(tutornet().arg("verify").arg(many));
    }

    fn names(&self) -> BTreeSet<String> {
        names(&self.out())
    }

    /// Starts a command and stops it (SIGSTOP) as soon as it holds a claim and `records` shards are finished.
    fn frozen(&self, mut command: Command, records: usize) -> Child {
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            let names = if self.out().exists() { self.names() } else { BTreeSet::new() };
            let holds = names.iter().any(|name| name.starts_with(".claim-shard-"));
            if holds && names.iter().filter(|name| name.ends_with(".done")).count() >= records {
                break;
            }
            assert!(Instant::now() < until, "no claim: {names:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
        signal(&child, "-STOP");
        child
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn end(child: Child) -> Answer {
    child.wait_with_output().unwrap().into()
}

fn records(work: &Work) -> usize {
    work.names().iter().filter(|name| name.ends_with(".done")).count()
}

#[test]
fn four_processes_and_a_seal_write_what_one_does() {
    for codec in ["f16", "klt:0.1"] {
        let work = Work::new();
        let start = |shard| {
            let mut command = work.task(shard, 4);
            command.args(["--codec", codec]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let tasks: Vec<Child> = (0..4).map(start).collect();
        for task in tasks {
            let answer = end(task);
            assert_eq!(answer.code, Some(0), "{}", answer.stderr);
            answer.says(&["this task's", "tutornet cache seal"]);
        }
        assert_eq!(records(&work), SHARDS);
        let left: Vec<String> = work.names().into_iter().filter(|name| name.starts_with('.')).collect();
        assert_eq!(left, [".lock"]);
        exits(tutornet().arg("verify").arg(work.out()), 1).prints(&["not complete", "tutornet cache seal"]);
        let sealed = succeeds(work.seal().arg("--json"));
        let sealed: serde_json::Value = serde_json::from_str(&sealed.stdout).unwrap();
        assert_eq!((sealed["utterances"].as_u64(), sealed["shards"].as_u64()), (Some(42), Some(21)));
        work.is_as_from_one_process(codec);
        // Neither a second seal nor a late task changes anything.
        succeeds(&mut work.seal()).says(&["complete already"]);
        succeeds(work.task(2, 4).args(["--codec", codec])).says(&["0 of them written now"]);
        work.is_as_from_one_process(codec);
    }
}

#[test]
fn an_unfinished_cache_names_the_tasks_to_run_again_and_no_other_number_of_them() {
    let work = Work::new();
    for shard in [1, 4] {
        succeeds(&mut work.task(shard, 6));
    }
    let plan = std::fs::read(work.out().join("plan.toml")).unwrap();
    let answer =
        exits(&mut work.seal(), 1).says(&["of 4 of 6 tasks", "sbatch --array=0,2-3,5", "--shard 0 --of 6"]);
    assert_eq!(answer.stdout, "0,2-3,5\n");
    let missing = exits(work.seal().arg("--json"), 1);
    let missing: serde_json::Value = serde_json::from_str(&missing.stdout).unwrap();
    assert_eq!(
        (&missing["missing_tasks"], &missing["tasks"]),
        (&serde_json::json!([0, 2, 3, 5]), &serde_json::json!(6))
    );
    assert_eq!(missing["shards"], SHARDS);
    fails(&mut work.task(0, 5), &["expected 6 (from plan.toml), found 5", "--of 6", "remove plan.toml"]);
    fails(&mut work.task(6, 6), &["--shard 6 --of 6", "0 to 5"]);
    exits(cache(&work.out()).args(["--shard", "1"]), 2).says(&["--of"]);
    exits(cache(&work.out()).args(["--of", "1"]), 2).says(&["--shard"]);
    exits(work.task(1, 6).arg("--slurm"), 2).says(&["--slurm"]);
    // Again, and nothing to do; the others, and a damaged shard.
    succeeds(&mut work.task(4, 6)).says(&["0 of them written now"]);
    for shard in [0, 2, 3, 5] {
        succeeds(&mut work.task(shard, 6));
    }
    assert_eq!(std::fs::read(work.out().join("plan.toml")).unwrap(), plan);
    let path = work.out().join("shard-00007.parquet");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let answer = exits(&mut work.seal(), 1)
        .says(&["shard-00007.parquet: expected BLAKE3", "1 of 21 shards are missing"]);
    let task = answer.stdout.trim().parse().unwrap();
    succeeds(&mut work.task(task, 6)).says(&["1 of them written now"]);
    // A record that was lost costs no more than a look at the shard.
    std::fs::remove_file(work.out().join("shard-00007.done")).unwrap();
    exits(&mut work.seal(), 1);
    succeeds(&mut work.task(task, 6)).says(&["0 of them written now"]);
    succeeds(&mut work.seal());
}

#[test]
fn what_is_left_of_a_divided_cache_one_process_can_finish() {
    let work = Work::new();
    succeeds(&mut work.task(2, 4));
    succeeds(&mut cache(&work.out())).says(&["5 of 21 shards are there already"]);
    work.is_as_from_one_process("f16");
    // Begun by one, finished by tasks.
    let work = Work::new();
    let mut whole = cache(&work.out()).stderr(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(120);
    while !work.out().exists() || records(&work) < 2 {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(1));
    }
    whole.kill().unwrap();
    whole.wait().unwrap();
    assert!(!work.out().join("manifest.toml").exists(), "too late");
    fails(&mut work.seal(), &["expected a plan.toml", "command that began it"]);
    for shard in 0..3 {
        succeeds(&mut work.task(shard, 3));
    }
    succeeds(&mut work.seal());
    work.is_as_from_one_process("f16");
    // Sealed, and damaged: this is for one process.
    let path = work.out().join("shard-00001.parquet");
    std::fs::remove_file(&path).unwrap();
    let failed: Vec<Answer> =
        (0..3).map(|shard| run(&mut work.task(shard, 3))).filter(|a| a.code != Some(0)).collect();
    assert_eq!(failed.len(), 1);
    assert!(failed[0].stderr.contains("run the command once without its task"), "{}", failed[0].stderr);
    succeeds(&mut cache(&work.out())).says(&["20 of 21 shards"]);
    work.is_as_from_one_process("f16");
}

#[test]
fn a_killed_tasks_claim_holds_nobody_up_and_a_live_ones_does() {
    let work = Work::new();
    let mut first = work.frozen(work.task(0, 1), 2);
    let holder = format!("process {}", first.id());
    // It is alive, if asleep: nobody else seals, writes the whole, or sweeps.
    fails(&mut work.seal(), &["being written by another process", &holder]);
    fails(&mut cache(&work.out()), &["being written by another process", &holder]);
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(work.names().iter().any(|name| name.starts_with(".claim-")));
    std::fs::write(work.out().join(".tutornet-tmp-left"), "left").unwrap();
    exits(&mut work.seal(), 1).says(&["is gone; taking over", "--array=0"]);
    assert!(work.names().iter().all(|name| name == ".lock" || !name.starts_with('.')), "{:?}", work.names());

    let mut second = work.frozen(work.task(0, 1), 4);
    second.kill().unwrap();
    second.wait().unwrap();
    succeeds(&mut work.task(0, 1)).says(&["is gone; taking over"]);
    succeeds(&mut work.seal());
    work.is_as_from_one_process("f16");
}

#[test]
fn a_task_that_was_started_twice_is_done_once() {
    for codec in ["f16", "klt:0.1"] {
        let work = Work::new();
        let with = |mut command: Command| {
            command.args(["--codec", codec]);
            command
        };
        let slow = work.frozen(with(work.task(0, 1)), 1);
        let mut second = with(work.task(0, 1));
        let second = second.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        // The second does what the first has not claimed, and waits for the rest.
        let until = Instant::now() + Duration::from_secs(120);
        let of_first = format!("process = {}\n", slow.id());
        let claimed = |name: &String| {
            let text = std::fs::read_to_string(work.out().join(name)).unwrap_or_default();
            name.starts_with(".claim-shard-") && text.contains(&of_first)
        };
        while records(&work) + work.names().iter().filter(|name| claimed(name)).count() < SHARDS {
            assert!(Instant::now() < until, "{:?}", work.names());
            std::thread::sleep(Duration::from_millis(5));
        }
        signal(&slow, "-CONT");
        for task in [slow, second] {
            let answer = end(task);
            assert_eq!(answer.code, Some(0), "{}", answer.stderr);
        }
        succeeds(&mut work.seal());
        work.is_as_from_one_process(codec);
    }
}

#[test]
fn notice_finishes_what_is_in_hand_and_asks_to_be_run_again() {
    let work = Work::new();
    let task = work.frozen(work.task(0, 1), 1);
    let hold: Vec<String> =
        work.names().into_iter().filter(|name| name.starts_with(".claim-shard-")).collect();
    signal(&task, "-USR1");
    signal(&task, "-CONT");
    let answer = end(task);
    assert_eq!(answer.code, Some(75), "{}", answer.stderr);
    let answer = answer.says(&["error: interrupted", "goes on after them"]);
    assert!(!answer.stderr.contains("panicked"));
    // What it had claimed is finished, the rest is not begun, and nothing else is left.
    for claim in hold {
        let record = claim.trim_start_matches(".claim-").replace(".parquet", ".done");
        assert!(work.names().contains(&record), "{record} of {:?}", work.names());
    }
    assert!((2..SHARDS).contains(&records(&work)), "{}", records(&work));
    assert!(work.names().iter().all(|name| name == ".lock" || !name.starts_with('.')), "{:?}", work.names());

    // A stop at once leaves no half shard either, and is no request to go on: `scancel` sends it.
    let before = records(&work);
    let task = work.frozen(work.task(0, 1), before + 1);
    signal(&task, "-TERM");
    signal(&task, "-CONT");
    let answer = end(task);
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    assert!(work.names().iter().all(|name| name == ".lock" || !name.starts_with('.')), "{:?}", work.names());
    assert!(records(&work) > before && records(&work) < SHARDS);

    succeeds(&mut work.task(0, 1));
    succeeds(&mut work.seal());
    work.is_as_from_one_process("f16");
}

#[test]
fn a_run_that_was_given_notice_leaves_a_checkpoint_and_asks_to_be_run_again() {
    let fixture = Fixture::get();
    let pipeline = fixture.pipeline("noticed", "objective = \"ctc\"\nmax_updates = 12");
    assert_eq!(stop_at(fixture, &pipeline, "noticed", 3, "-USR1", &[]), Some(75));
    let run = fixture.at("noticed");
    assert!(std::fs::read_dir(run.join("checkpoints")).unwrap().count() >= 1);
    succeeds(&mut fixture.train(&pipeline, "noticed", &["--resume"])).says(&["going on from update"]);
}

#[test]
fn an_array_of_slurm_says_which_task_it_is() {
    let work = Work::new();
    let task = |id: &str, min: &str, max: &str, count: &str| {
        let mut command = cache(&work.out());
        command.arg("--slurm");
        let all = [("ID", id), ("MIN", min), ("MAX", max), ("COUNT", count)];
        for (name, value) in all.into_iter().filter(|(_, value)| !value.is_empty()) {
            command.env(format!("SLURM_ARRAY_TASK_{name}"), value);
        }
        command
    };
    fails(&mut task("", "", "", ""), &["SLURM_ARRAY_TASK_ID", "sbatch --array=0-N", "--shard I --of N"]);
    fails(&mut task("one", "", "", ""), &["SLURM_ARRAY_TASK_ID", "\"one\""]);
    fails(&mut task("3", "", "", ""), &["SLURM_ARRAY_TASK_MIN"]);
    fails(&mut task("2", "2", "4", "2"), &["--array=0-1"]);
    assert!(!work.out().exists(), "nothing is begun by what is refused");
    succeeds(&mut task("1", "1", "3", "3"));
    // Some of the array again, as it was counted before.
    succeeds(&mut task("3", "3", "3", "1"));
    fails(&mut task("0", "0", "2", "3"), &["--array=1-3", "3 from 0 to 2", "plan.toml"]);
    fails(&mut task("1", "1", "4", "4"), &["--array=1-3", "4 from 1 to 4"]);
    assert_eq!(exits(&mut work.seal(), 1).says(&["--array=2", "--shard 1 --of 3"]).stdout, "2\n");
    succeeds(&mut work.task(1, 3));
    succeeds(&mut work.seal());
    work.is_as_from_one_process("f16");
}

#[test]
fn more_tasks_than_shards_leave_some_without_work() {
    let work = Work::new();
    for shard in 0..u32::try_from(SHARDS).unwrap() {
        succeeds(&mut work.task(shard, 64));
    }
    succeeds(&mut work.task(63, 64)).says(&["this task's 0 shards"]);
    succeeds(&mut work.seal());
    work.is_as_from_one_process("f16");
}
