use std::path::Path;
use std::sync::Arc;

use minisign::KeyPair;

use super::sample::{Random, library_with, manifest, vet, write};
use crate::file::signed::{SignatureAt, TrustedKey, beside, check_signed, claimed_signer, signature_of};
use crate::file::{NotAKey, NotSigned};

fn pair() -> KeyPair {
    KeyPair::generate_unencrypted_keypair().unwrap()
}

fn trusted(pairs: &[&KeyPair]) -> Vec<TrustedKey> {
    pairs.iter().map(|pair| pair.pk.to_base64().parse().unwrap()).collect()
}

fn signature(pair: &KeyPair, bytes: &[u8]) -> String {
    minisign::sign(None, &pair.sk, bytes, None, None).unwrap().into_string()
}

fn kept(text: &str) -> SignatureAt {
    SignatureAt::Kept(Some(Arc::from(text)))
}

#[test]
fn a_key_is_read_from_its_line_or_its_file_and_from_nothing_else() {
    let line = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    let key: TrustedKey = line.parse().unwrap();
    assert_eq!(key.id().to_string(), "E7620F1842B4E81F");
    assert_eq!(format!("untrusted comment: mine\n{line}\n").parse(), Ok(key.clone()));
    assert_eq!(format!("  {line} \r\n").parse(), Ok(key));
    for text in ["", "\n", "RW", &line[1..], &line[..55], &format!("{line}A"), &line.replace('Q', "X")] {
        assert_eq!(text.parse::<TrustedKey>(), Err(NotAKey), "{text}");
    }
}

#[test]
fn a_signature_of_the_tool_itself_is_accepted_and_each_other_is_refused_for_what_it_is() {
    // Made by minisign 0.11, with the hash of the file and, as before 0.10, without.
    let key: TrustedKey = "RWQ0Wuxo58TAybvMpJPszQ8mRvhlZYiz+nsJLidR7nHiCJJurzXBMpVZ".parse().unwrap();
    let hashed = "untrusted comment: signature from minisign secret key\n\
        RUQ0Wuxo58TAyW2zAvkqgfgKC+wyE5xO+O3mOtvAAPxukvJSsnXWNZkZsPQE5OFl29boml6rP4DEofYSiEWcAs7LvvT+7bweqws=\n\
        trusted comment: timestamp:1795298650\tfile:t\thashed\n\
        B5eQtfqO+xIaVTVkxyYN7uiE1p7cNHA8srJiQY9ROUIHpcXF8WVCT8Uek/Vau6A62CzXtPiMX7fJE2rPXl6nBQ==\n";
    let legacy = "untrusted comment: signature from minisign secret key\n\
        RWQ0Wuxo58TAybQnHvYu8XZzyV+M12TXu01KKAmJMwA9MadJle4j3AWZfyvAgBArEIMsFg8yJF9glyfl3vN2LzI2ymp3vBmIfA4=\n\
        trusted comment: timestamp:1795298650\tfile:t\n\
        36jC9AvHwiDhRiTT+O2P3TpdkYt63cB+4KZf5cg6WNHmBVw3vbw4p/2IT/l1Qp6BXV8pa6F+eU8dua68w2/4CA==\n";
    let keys = [key];
    for text in [hashed, legacy] {
        assert!(check_signed(b"test", &kept(text), &keys).unwrap().is_some());
    }
    let other = check_signed(b"tesu", &kept(hashed), &keys).unwrap_err();
    assert!(matches!(other, NotSigned::OtherBytes { .. }), "{other}");
    let comment = hashed.replace("file:t", "file:u");
    let other = check_signed(b"test", &kept(&comment), &keys).unwrap_err();
    assert!(matches!(other, NotSigned::OtherBytes { .. }), "{other}");
    let foreign = check_signed(b"test", &kept(hashed), &trusted(&[&pair()])).unwrap_err();
    assert!(
        foreign.to_string().contains("is signed by key C9C0C4E768EC5A34, which is not trusted"),
        "{foreign}"
    );
    let without = check_signed(b"test", &SignatureAt::Kept(None), &keys).unwrap_err();
    assert!(matches!(without, NotSigned::KeptWithout), "{without}");
    // Where nobody is asked to sign, nothing is looked at.
    assert!(check_signed(b"test", &kept("nonsense"), &[]).unwrap().is_none());
}

#[test]
fn of_several_keys_any_may_have_signed() {
    let (one, two) = (pair(), pair());
    let (keys, bytes) = (trusted(&[&one, &two]), b"library");
    for pair in [&one, &two] {
        assert!(check_signed(bytes, &kept(&signature(pair, bytes)), &keys).is_ok());
    }
}

#[test]
fn a_signature_in_which_anything_is_changed_is_refused_and_so_is_one_that_is_cut_short() {
    let (pair, bytes, mut random) = (pair(), b"library", Random(7));
    let (keys, text) = (trusted(&[&pair]), signature(&pair, bytes));
    // The first line says nothing.
    let from = text.find('\n').unwrap() + 1;
    let end = text.trim_end().len();
    for cut in 0..end {
        assert!(check_signed(bytes, &kept(&text[..cut]), &keys).is_err(), "cut at {cut}");
    }
    for _ in 0..2000 {
        let mut changed = text.clone().into_bytes();
        let at = from + random.below(end - from);
        changed[at] ^= 1 << random.below(7);
        let Ok(changed) = String::from_utf8(changed) else { continue };
        // A line's end of another kind is the same text.
        let same = changed.lines().eq(text.lines());
        assert_eq!(check_signed(bytes, &kept(&changed), &keys).is_ok(), same, "{changed:?}");
    }
}

#[test]
fn what_lies_beside_a_library_is_read_whatever_it_is() {
    let (dir, pair, bytes) = (tempfile::tempdir().unwrap(), pair(), b"library");
    let (library, keys) = (dir.path().join("libx.so"), trusted(&[&pair]));
    let place = signature_of(&library);
    assert_eq!(place, dir.path().join("libx.so.minisig"));
    let said = || beside(bytes, &library, &keys).unwrap_err().to_string();
    assert!(said().contains("expected") && said().contains("libx.so.minisig"), "{}", said());
    assert!(claimed_signer(&library).unwrap().is_none());
    for (contents, what) in [
        (&b""[..], "is empty"),
        (b"\xff\xfe", "is not text"),
        (b"one\ntwo\nthree\nfour\n", "is something else"),
        (&[b'a'; 20_000], "is too long"),
    ] {
        write(&place, contents);
        assert!(said().contains(what), "{what}: {}", said());
    }
    std::fs::remove_file(&place).unwrap();
    std::fs::create_dir(&place).unwrap();
    assert!(said().contains("is no regular file"), "{}", said());
    std::fs::remove_dir(&place).unwrap();
    // Whoever opened it would wait for ever.
    let fifo = std::process::Command::new("mkfifo").arg(&place).status().unwrap();
    assert!(fifo.success() && said().contains("is no regular file"), "{}", said());
    std::fs::remove_file(&place).unwrap();
    write(&place, signature(&pair, bytes).as_bytes());
    assert_eq!(beside(bytes, &library, &keys).unwrap().0, keys[0].id());
    assert_eq!(claimed_signer(Path::new(&library)).unwrap(), Some(keys[0].id()));
}

#[test]
fn the_signature_holds_for_the_hosts_own_copy_in_which_the_mark_was_cleared_and_for_no_other() {
    let library = library_with(&manifest(), super::sample::DESCRIPTOR, &["-Wl,-z,nodelete"]);
    let (pair, at) = (pair(), vet(&library).unwrap().facts.nodelete.unwrap() as usize);
    let (keys, text) = (trusted(&[&pair]), signature(&pair, &library));
    let mut cleared = library.clone();
    let value = u64::from_le_bytes(cleared[at..at + 8].try_into().unwrap());
    cleared[at..at + 8].copy_from_slice(&(value & !object::elf::DF_1_NODELETE.0).to_le_bytes());
    assert_ne!(cleared, library);
    assert!(check_signed(&library, &kept(&text), &keys).is_ok());
    assert!(check_signed(&cleared, &kept(&text), &keys).is_ok());
    let last = cleared.len() - 1;
    cleared[last] ^= 1;
    assert!(check_signed(&cleared, &kept(&text), &keys).is_err());
}
