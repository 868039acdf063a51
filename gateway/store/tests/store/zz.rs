//! Throwaway.
#![expect(clippy::disallowed_methods)]
use basalt_model::{
    TaskId,
    tasks::{TaskMove, TaskState},
};
use basalt_store::{
    tasks,
    testkit::{self, Database},
};
use std::time::Instant;

#[tokio::test]
async fn zz_plans() {
    let db = Database::new().await;
    let store = &db.store;
    let now = testkit::now();
    let mv = |id| TaskMove {
        id: TaskId(id),
        state: TaskState::Executing,
        progress: 50,
        stage: "x".into(),
        error: None,
    };
    for _ in 0..10 {
        let mut tx = store.derived().await.unwrap();
        tasks::advance(&mut tx, &[mv(uuid::Uuid::from_u128(1))], now).await.unwrap();
        tx.commit().await.unwrap();
    }
    for round in 0..3 {
        db.run(&format!("INSERT INTO tasks (id, kind, subject_kind, subject_id, subject_name, generation, state, progress, stage, depends_on, deadline, attempt, actor, created_at) SELECT gen_random_uuid(), 'vm_start', 'bench', gen_random_uuid(), 'bench', 1, 'pending', 0, '', '{{}}', now() + interval '1 hour', 1, '{{\"kind\": \"user\", \"id\": \"00000000-0000-0000-0000-000000000001\", \"name\": \"bench\"}}', now() FROM generate_series(1, 30000)")).await;
        let ids = db.ask(&["SELECT id FROM tasks WHERE state = 'pending'"]).await;
        let ids: Vec<uuid::Uuid> = ids[0]
            .iter()
            .map(|r| {
                let v: serde_json::Value = serde_json::from_str(r).unwrap();
                v["id"].as_str().unwrap().parse().unwrap()
            })
            .collect();
        let mut took = Vec::new();
        for portion in ids.chunks(256).take(60) {
            let moves: Vec<_> = portion.iter().map(|id| mv(*id)).collect();
            let at = Instant::now();
            let mut tx = store.derived().await.unwrap();
            tasks::advance(&mut tx, &moves, now).await.unwrap();
            tx.commit().await.unwrap();
            took.push(at.elapsed().as_micros());
        }
        took.sort();
        println!("round {round}: p50 {} us p99 {} us", took[took.len() / 2], took[took.len() - 1]);
        if round == 1 {
            db.run("ANALYZE tasks").await;
            println!("analyzed");
        }
    }
}
