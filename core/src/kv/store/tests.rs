use super::*;
use alloc::vec;
use proptest::prelude::*;

/// The row of token `t`: its number, over and over.
fn row(t: u32, row_bytes: usize) -> Vec<u8> {
    t.to_le_bytes().iter().copied().cycle().take(row_bytes).collect()
}

fn filled(n: u32, block_tokens: usize) -> RowStore {
    let mut store = RowStore::new(DType::F16, 4, block_tokens).unwrap();
    (0..n).for_each(|t| store.extend(&row(t, 8)).unwrap());
    store
}

fn tokens(store: &RowStore) -> Vec<u32> {
    let first = |t| u32::from_le_bytes(*store.row(t).first_chunk().unwrap());
    (0..store.len()).map(first).collect()
}

#[test]
fn rows_come_back_in_order_whatever_the_pieces() {
    for pieces in [1, 3, 8, 9, 40] {
        let rows: Vec<u8> = (0..40).flat_map(|t| row(t, 8)).collect();
        let mut store = RowStore::new(DType::F16, 4, 8).unwrap();
        rows.chunks(pieces * 8).for_each(|piece| store.extend(piece).unwrap());
        assert_eq!(tokens(&store), (0..40).collect::<Vec<_>>());
        assert_eq!(store.blocks().flatten().copied().collect::<Vec<_>>(), rows);
        for range in [0..40, 3..3, 40..40, 7..9, 8..16, 5..37] {
            let runs: Vec<u8> = store.runs(range.clone()).unwrap().flatten().copied().collect();
            assert_eq!(runs, rows[range.start * 8..range.end * 8]);
        }
    }
}

#[test]
fn rows_start_at_cache_lines() {
    let mut store = RowStore::new(DType::F16, 32, 16).unwrap();
    for t in 0..50 {
        store.extend(&row(t, 64)).unwrap();
        assert!(store.blocks().all(|b| b.as_ptr().align_offset(64) == 0));
    }
    let fork = {
        let mut fork = store.clone();
        fork.extend(&row(50, 64)).unwrap();
        fork
    };
    assert!(fork.blocks().all(|b| b.as_ptr().align_offset(64) == 0));
}

#[test]
fn a_fork_copies_only_the_block_it_writes() {
    let store = filled(20, 8);
    let mut fork = store.clone();
    assert_eq!(fork.shared_blocks(), 3);
    fork.extend(&row(77, 8)).unwrap();
    assert_eq!(fork.shared_blocks(), 2);
    assert_eq!(store.len(), 20);
    fork.truncate(8);
    fork.extend(&row(78, 8)).unwrap();
    assert_eq!(tokens(&fork), [0, 1, 2, 3, 4, 5, 6, 7, 78]);
    assert_eq!(tokens(&store), (0..20).collect::<Vec<_>>());
}

#[test]
fn block_types_are_stored_as_they_are() {
    let mut store = RowStore::new(DType::Q8_0, 64, 4).unwrap();
    let rows: Vec<u8> = (0..5).flat_map(|t| row(t, 68)).collect();
    store.extend(&rows).unwrap();
    assert_eq!(store.row(4), row(4, 68));
    assert_eq!(RowStore::new(DType::Q8_0, 33, 4).err(), Some(KvError::Row { dtype: DType::Q8_0, dim: 33 }));
}

#[test]
fn wrong_input_changes_nothing() {
    let mut store = filled(10, 8);
    assert_eq!(store.extend(&[0; 9]), Err(KvError::Length { expected: 16, got: 9 }));
    assert_eq!(store.remove(4..11), Err(KvError::Range { start: 4, end: 11, len: 10 }));
    assert!(store.runs(9..12).is_err());
    assert!(store.to_f32(0..2, &mut [0.0; 7]).is_err());
    assert_eq!(RowStore::new(DType::F16, 4, 6).err(), Some(KvError::BlockTokens { block_tokens: 6 }));
    assert_eq!(RowStore::new(DType::F16, 0, 8).err(), Some(KvError::Row { dtype: DType::F16, dim: 0 }));
    assert_eq!(tokens(&store), (0..10).collect::<Vec<_>>());
}

#[test]
fn conversion_crosses_blocks() {
    let mut store = RowStore::new(DType::F32, 2, 4).unwrap();
    let values: Vec<f32> = (0u8..30).map(f32::from).collect();
    store.extend(bytemuck::cast_slice(&values)).unwrap();
    let mut out = vec![0.0; 18];
    store.to_f32(3..12, &mut out).unwrap();
    assert_eq!(out, values[6..24]);
}

#[test]
fn a_full_block_takes_its_rows_and_a_line() {
    let store = filled(64, 32);
    let fixed = 2 * (size_of::<Block>() + 16) + store.blocks.capacity() * 8;
    assert_eq!(store.heap_bytes(), 64 * 8 + 2 * 63 + fixed);
}

proptest! {
    #[test]
    fn stores_follow_a_plain_list(seed in any::<u64>()) {
        let mut rng = crate::num::rng::Xoshiro256pp::new(seed);
        let mut below = move |n: usize| usize::try_from(rng.below(n as u64)).unwrap();
        let mut stores = vec![(filled(0, 8), Vec::<u32>::new())];
        let mut next = 0;
        for _ in 0..80 {
            let at = below(stores.len());
            let (store, list) = &mut stores[at];
            match below(6) {
                0..3 => for _ in 0..below(20) {
                    store.extend(&row(next, 8)).unwrap();
                    list.push(next);
                    next += 1;
                },
                3 => {
                    let len = below(list.len() + 3);
                    store.truncate(len);
                    list.truncate(len);
                }
                4 => {
                    let start = below(list.len() + 1);
                    let range = start..start + below(list.len() - start + 1);
                    store.remove(range.clone()).unwrap();
                    list.drain(range);
                }
                _ => {
                    let fork = stores[at].clone();
                    if stores.len() < 4 { stores.push(fork) } else { let to = below(4); stores[to] = fork }
                }
            }
            for (store, list) in &stores {
                prop_assert_eq!(&tokens(store), list);
            }
        }
    }
}
