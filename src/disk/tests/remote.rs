//! A disk that is elsewhere reads as one that is here, whatever its other end does.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::disk::{CHUNK, Disk, Fetch, Origin, Remote};

/// The chunks that were asked for.
type Asked = Arc<Mutex<Vec<u64>>>;

/// Content that is served.
struct Served {
    content: Vec<u8>,
    asked: Asked,
}

impl Fetch for Served {
    fn fetch(&mut self, number: u64) -> io::Result<Vec<u8>> {
        self.asked.lock().unwrap().push(number);
        let end = ((number + 1) * CHUNK).min(self.content.len() as u64);
        Ok(self.content[(number * CHUNK) as usize..end as usize].to_vec())
    }
}

/// One that answers as it likes.
struct Answers(fn(u64) -> io::Result<Vec<u8>>);

impl Fetch for Answers {
    fn fetch(&mut self, number: u64) -> io::Result<Vec<u8>> {
        self.0(number)
    }
}

fn remote(size: u64, fetch: impl Fetch + 'static) -> Remote {
    let patience = Duration::from_secs(60);
    Remote::new("the disk".into(), size, patience, Box::new(fetch))
}

/// A disk of this content, and what is asked of it.
fn disk(content: Vec<u8>) -> (Disk, Asked) {
    let asked = Asked::default();
    let served = Served {
        content,
        asked: asked.clone(),
    };
    let remote = remote(served.content.len() as u64, served);
    (Disk::remote(remote, later()), asked)
}

/// The same as an origin.
pub fn origin(content: Vec<u8>) -> Origin {
    let asked = Asked::default();
    Origin::Remote(remote(content.len() as u64, Served { content, asked }))
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn noise(len: u64) -> Vec<u8> {
    let mut state = 7_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn every_piece_is_what_it_is_there() {
    let content = noise(5 * CHUNK + 700);
    let (disk, _) = disk(content.clone());
    let size = content.len() as u64;
    assert_eq!(disk.size(), size);
    let edges = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, size - 1];
    for start in edges {
        for len in [0, 1, 4096, CHUNK, 2 * CHUNK + 9, size] {
            let end = (start + len).min(size);
            let expected = &content[start as usize..end as usize];
            assert!(disk.read_up_to(start, len as usize).unwrap() == expected);
        }
    }
    let past = disk.read_at(size - 1, &mut [0; 2]).unwrap_err();
    assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn what_is_read_again_is_not_fetched_again() {
    let (disk, asked) = disk(noise(8 * CHUNK));
    for _ in 0..3 {
        for chunk in [6, 2, 4] {
            disk.read_up_to(chunk * CHUNK + 100, 4096).unwrap();
        }
    }
    assert_eq!(*asked.lock().unwrap(), [6, 2, 4]);
}

#[test]
fn what_was_not_used_for_long_is_dropped() {
    let (disk, asked) = disk(vec![0; 600 * CHUNK as usize]);
    let touch = |chunk: u64| disk.read_up_to(chunk * CHUNK, 1).unwrap();
    for chunk in (1..600).rev() {
        touch(chunk);
        touch(0);
    }
    let fetched = asked.lock().unwrap().len();
    touch(0);
    touch(1);
    assert_eq!(asked.lock().unwrap().len(), fetched);
    touch(599);
    assert_eq!(asked.lock().unwrap().len(), fetched + 1);
}

#[test]
fn an_answer_of_another_length_is_an_error() {
    for answers in [
        |_| Ok(vec![]),
        |_| Ok(vec![1; CHUNK as usize - 1]),
        |_| Ok(vec![1; CHUNK as usize + 1]),
    ] {
        let disk = Disk::remote(remote(2 * CHUNK, Answers(answers)), later());
        let error = disk.read_up_to(0, 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("were asked for"), "{error}");
    }
}

#[test]
fn a_failure_there_is_a_failure_here_and_what_came_before_stays() {
    let answers = |number: u64| match number {
        0 => Ok(vec![3; CHUNK as usize]),
        _ => Err(io::Error::other("the line was cut")),
    };
    let disk = Disk::remote(remote(2 * CHUNK, Answers(answers)), later());
    assert_eq!(disk.read_up_to(10, 2).unwrap(), [3, 3]);
    let error = disk.read_up_to(CHUNK - 1, 2).unwrap_err();
    assert_eq!(error.to_string(), "the line was cut");
    assert_eq!(disk.read_up_to(10, 2).unwrap(), [3, 3]);
}

#[test]
fn after_the_deadline_nothing_is_fetched() {
    let never = |_| -> io::Result<Vec<u8>> { panic!("it was asked") };
    let disk = Disk::remote(remote(CHUNK, Answers(never)), Instant::now());
    let error = disk.read_up_to(0, 1).unwrap_err();
    assert!(error.to_string().contains("far too long"), "{error}");
}
