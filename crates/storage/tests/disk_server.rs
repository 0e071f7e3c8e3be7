//! Disks served by `qemu-nbd` and read through the client: what is written is there, and nobody else has the disk meanwhile.

use std::io;
use std::path::Path;

use gantry_storage::{DirPool, DiskSpec, Extent, NbdClient, SERVED_EXPORT, ServeMode, StorageError};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use uuid::Uuid;

const SIZE: u64 = 8 << 20;

async fn pool_with_disk(directory: &Path) -> (DirPool, Uuid) {
    let pool = DirPool::open(&directory.join("pool")).unwrap();
    let disk = Uuid::new_v4();
    pool.create_disk(&DiskSpec { disk, size_bytes: SIZE, image: None, owner_uid: None }).await.unwrap();
    (pool, disk)
}

async fn connect(socket: &Path, export: &str) -> io::Result<NbdClient> {
    NbdClient::connect(UnixStream::connect(socket).await?, export, None).await
}

/// The parts with data, neighbours joined.
async fn data(client: &mut NbdClient) -> Vec<(u64, u64)> {
    let (mut at, mut found): (u64, Vec<(u64, u64)>) = (0, Vec::new());
    while at < client.size_bytes() {
        for Extent { offset_bytes, length_bytes, is_set } in client.allocated(at).await.unwrap() {
            assert_eq!(offset_bytes, at, "no gaps");
            at += length_bytes;
            match found.last_mut() {
                Some((begin, length)) if is_set && *begin + *length == offset_bytes => *length += length_bytes,
                _ if is_set => found.push((offset_bytes, length_bytes)),
                _ => {}
            }
        }
    }
    found
}

#[tokio::test]
async fn what_is_written_is_there_for_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let (pool, disk) = pool_with_disk(directory.path()).await;
    let socket = directory.path().join("disk.sock");
    let server = pool.serve_disk(disk, &socket, ServeMode::Writable).await.unwrap();
    let mut client = connect(&socket, SERVED_EXPORT).await.unwrap();
    assert_eq!((client.size_bytes(), data(&mut client).await), (SIZE, Vec::new()));
    let content: Vec<u8> = (0..128_u32 << 10).map(|at| (at % 251) as u8).collect();
    client.write(1 << 20, &content).await.unwrap();
    client.flush().await.unwrap();
    drop(client);
    server.end().await;

    let server = pool.serve_disk(disk, &socket, ServeMode::ReadOnly).await.unwrap();
    let mut client = connect(&socket, SERVED_EXPORT).await.unwrap();
    assert_eq!(data(&mut client).await, [(1 << 20, 128 << 10)]);
    let mut read = vec![0xee; 256 << 10];
    client.read((1 << 20) - 4096, &mut read).await.unwrap();
    assert!(read[..4096].iter().all(|byte| *byte == 0));
    assert!(read[4096..4096 + content.len()] == content);
    assert!(client.write(0, &[1; 512]).await.is_err(), "it is read-only");
    assert!(client.read(SIZE, &mut [0; 512]).await.is_err(), "there is nothing behind its end");
    server.end().await;
}

#[tokio::test]
async fn nobody_else_opens_a_disk_that_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let (pool, disk) = pool_with_disk(directory.path()).await;
    let socket = directory.path().join("disk.sock");
    let missing = pool.serve_disk(Uuid::new_v4(), &socket, ServeMode::ReadOnly).await.unwrap_err();
    assert!(matches!(missing, StorageError::DiskMissing { .. }), "{missing}");
    let server = pool.serve_disk(disk, &socket, ServeMode::Writable).await.unwrap();
    let busy = pool.serve_disk(disk, &directory.path().join("other.sock"), ServeMode::ReadOnly).await.unwrap_err();
    assert!(matches!(busy, StorageError::DiskBusy { .. }), "{busy}");
    let unknown = connect(&socket, "another").await.unwrap_err();
    assert_eq!(unknown.kind(), io::ErrorKind::NotFound, "{unknown}");
    server.end().await;
    pool.serve_disk(disk, &socket, ServeMode::ReadOnly).await.unwrap().end().await;
}

/// A server that its guest has taken over says what it wants: the client neither believes nor allocates it.
#[tokio::test]
async fn a_hostile_server_is_refused() {
    // An answer to the first question that is 4 GiB long.
    let mut long = b"NBDMAGICIHAVEOPT\x00\x03".to_vec();
    long.extend(0x0003_e889_0455_65a9_u64.to_be_bytes());
    long.extend([8_u32, 1, u32::MAX].map(u32::to_be_bytes).concat());
    for said in [b"HTTP/1.1 200 OK\r\n\r\nand much more".to_vec(), long] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&said).await.unwrap();
        let refused = NbdClient::connect(ours, SERVED_EXPORT, None).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{refused}");
    }
}
