use super::*;

const QUICK: Patience = Patience { beat: Duration::from_millis(20), stale: Duration::from_millis(400) };

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn one_holds_what_it_has_claimed_until_it_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (one, two) = (Claims::new(dir, QUICK), Claims::new(dir, QUICK));
    assert!(one.take("a").unwrap() && one.take("a").unwrap() && two.take("b").unwrap());
    assert!(!two.take("a").unwrap());
    let pid = format!("process {}", std::process::id());
    assert!(two.holder("a").contains(&pid), "{}", two.holder("a"));
    // Nobody gives up what is not its own.
    two.release("a");
    assert!(!two.take("a").unwrap());
    one.release("a");
    assert!(two.take("a").unwrap() && !one.take("a").unwrap());
    drop(two);
    assert!(one.take("a").unwrap() && one.take("b").unwrap());
    drop(one);
    assert_eq!(names(dir), [""; 0]);
}

#[test]
fn of_many_that_want_the_same_one_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    for what in ["a", "b", "c"] {
        let all: Vec<Claims> = (0..8).map(|_| Claims::new(dir.path(), QUICK)).collect();
        let start = std::sync::Barrier::new(all.len());
        let got: Vec<bool> = std::thread::scope(|scope| {
            let ask = |claims| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    Claims::take(claims, what).unwrap()
                })
            };
            let asked: Vec<_> = all.iter().map(ask).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        assert_eq!(got.iter().filter(|got| **got).count(), 1, "{got:?}");
    }
}

#[test]
fn what_a_dead_process_of_this_machine_claimed_is_taken_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let dead = Holder { process: child.id(), started: 1, ..Holder::this() };
    child.wait().unwrap();
    std::fs::write(dir.path().join(".claim-a"), dead.text()).unwrap();
    // The number of a process that lives, but began at another time.
    let reused = Holder { started: 1, ..Holder::this() };
    std::fs::write(dir.path().join(".claim-b"), reused.text()).unwrap();
    let long = Patience { stale: Duration::from_secs(3600), ..QUICK };
    let claims = Claims::new(dir.path(), long);
    assert!(claims.take("a").unwrap() && claims.take("b").unwrap());
    drop(claims);
    std::fs::write(dir.path().join(".claim-a"), dead.text()).unwrap();
    drop(alone(dir.path(), long, &Stop::default()).unwrap());
    assert_eq!(names(dir.path()), [".lock"]);
}

#[test]
fn another_machine_is_believed_alive_while_its_claim_changes_and_dead_once_it_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let far = Holder { host: "far".to_owned(), space: "far".to_owned(), ..Holder::this() };
    let alive = Claims::of(far, dir.path(), QUICK);
    assert!(alive.take("a").unwrap());
    let near = Claims::new(dir.path(), QUICK);
    let until = Instant::now() + 3 * QUICK.stale;
    while Instant::now() < until {
        assert!(!near.take("a").unwrap());
        std::thread::sleep(QUICK.beat / 2);
    }
    let error = alone(dir.path(), QUICK, &Stop::default()).unwrap_err().to_string();
    assert!(error.contains("on far") && error.contains("being written"), "{error}");
    // It is killed: its claim stays, and stays as it is.
    lock(&alive.held).clear();
    drop(alive);
    assert_eq!(names(dir.path()), [".claim-a", ".lock"]);
    let since = Instant::now();
    while !near.take("a").unwrap() {
        assert!(since.elapsed() < 20 * QUICK.stale, "never taken over");
        std::thread::sleep(QUICK.beat);
    }
    assert!(since.elapsed() >= QUICK.stale / 2);
}

#[test]
fn a_claim_that_says_nothing_is_waited_for_and_then_broken() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".claim-a"), "").unwrap();
    std::fs::write(dir.path().join(".tutornet-tmp-x"), "").unwrap();
    let claims = Claims::new(dir.path(), QUICK);
    assert!(!claims.take("a").unwrap());
    std::thread::sleep(QUICK.stale);
    assert!(claims.take("a").unwrap());
    drop(claims);
    std::fs::write(dir.path().join(".claim-a"), "?").unwrap();
    drop(alone(dir.path(), QUICK, &Stop::default()).unwrap());
    assert_eq!(names(dir.path()), [".lock"]);
}

#[test]
fn who_lost_a_claim_does_not_take_it_from_its_new_holder() {
    let dir = tempfile::tempdir().unwrap();
    let (slow, quick) = (Claims::new(dir.path(), QUICK), Claims::new(dir.path(), QUICK));
    assert!(slow.take("a").unwrap());
    let path = dir.path().join(".claim-a");
    std::fs::remove_file(&path).unwrap();
    assert!(quick.take("a").unwrap());
    std::thread::sleep(4 * QUICK.beat);
    slow.release("a");
    drop(slow);
    assert_eq!(std::fs::read(&path).unwrap(), quick.me.text().as_bytes());
}

#[test]
fn another_machine_is_alive_if_it_claims_one_thing_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let far = Holder { host: "far".to_owned(), space: "far".to_owned(), ..Holder::this() };
    // It never holds one for long enough to be seen to move its time.
    let quick = Claims::of(far, dir.path(), Patience { beat: Duration::from_secs(3600), ..QUICK });
    assert!(quick.take("0").unwrap());
    let end = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..10_000 {
                std::thread::sleep(Duration::from_millis(50));
                assert!(quick.take(&(number + 1).to_string()).unwrap());
                quick.release(&number.to_string());
                if end.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
            }
        });
        let patience = Patience { stale: Duration::from_secs(60), ..QUICK };
        let found = alone(dir.path(), patience, &Stop::default()).map_err(|error| error.to_string());
        end.store(true, std::sync::atomic::Ordering::Relaxed);
        let error = found.unwrap_err();
        assert!(error.contains("on far") && error.contains("being written"), "{error}");
    });
}

#[test]
fn a_lock_that_outlasts_its_process_by_a_moment_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let lock = DirectoryLock::share(dir).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            drop(lock);
        });
        alone(dir, QUICK, &Stop::default()).unwrap();
    });
    // One that is alive keeps it.
    let _lock = DirectoryLock::share(dir).unwrap();
    let error = alone(dir, QUICK, &Stop::default()).unwrap_err().to_string();
    assert!(error.contains("is being written by another process"), "{error}");
}
