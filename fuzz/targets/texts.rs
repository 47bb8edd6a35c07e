#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tutornet::checks::texts(bytes));
