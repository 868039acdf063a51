//! Agents, servers, providers and secrets: what a tag means, and that no secret stands in the database.

use crate::fixture::House;
use basalt_model::{
    Generation, Labels,
    artifacts::{ArtifactKind, ArtifactSpec, Tag},
    providers::ProviderSpec,
    secrets::SecretSpec,
};
use basalt_store::{
    Error, Key, New, Page, Update,
    artifacts::{self, ArtifactKey},
    providers,
    secrets::{self, SealingKeys},
    testkit::name,
};
use serde_json::json;
use sqlx::{Connection, PgConnection};

fn agent(image: &str, description: &str) -> ArtifactSpec {
    let spec = json!({"source": {"type": "image", "image": image}, "description": description});
    ArtifactSpec::Agent(serde_json::from_value(spec).unwrap())
}

fn keys(ids: &[i64]) -> SealingKeys {
    SealingKeys::new(ids.iter().map(|id| (*id, vec![u8::try_from(*id).unwrap(); 32]))).unwrap()
}

fn value(text: &str) -> SecretSpec {
    SecretSpec { value: text.into() }
}

#[tokio::test]
async fn dp13_the_same_content_under_its_tag_moves_nothing_and_other_content_one_generation() {
    let h = House::new().await;
    let new = New { name: name("helper"), labels: Labels::default(), spec: agent("helper:1", "helps") };
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let first = artifacts::insert(&mut tx, &h.change(), h.project, &Tag::default(), &new).await.unwrap();
    let second_tag = Tag::new("2").unwrap();
    let other = artifacts::insert(&mut tx, &h.change(), h.project, &second_tag, &new).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(first.content_hash, other.content_hash, "the hash is of what runs, not of who it is");
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let taken = artifacts::insert(&mut tx, &h.change(), h.project, &second_tag, &new).await.unwrap_err();
    assert!(matches!(taken, Error::NameTaken { kind: "agent", name } if name == "helper:2"));
    drop(tx);

    let key = ArtifactKey::parse(ArtifactKind::Agent, "helper").unwrap();
    let mut generation = Generation::FIRST;
    for (image, description, label, moves) in [
        ("helper:1", "helps", None, false),
        ("helper:1", "helps a lot", None, false),
        ("helper:1", "helps a lot", Some("a"), false),
        ("helper:2", "helps a lot", Some("a"), true),
        ("helper:2", "helps a lot", Some("a"), false),
    ] {
        let labels = label.map(|l| Labels::from_iter([("team", l)]));
        let update = Update { expected: Some(generation), labels, spec: agent(image, description) };
        let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
        let changed = artifacts::update(&mut tx, &h.change(), h.project, &key, &update).await.unwrap();
        tx.commit().await.unwrap();
        generation = Generation(generation.0 + i64::from(moves));
        assert_eq!(changed.metadata.generation, generation, "{image} {description} {label:?}");
        assert_eq!(changed.spec, update.spec);
    }
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let of = (h.project, ArtifactKind::Agent);
    artifacts::delete(&mut tx, &h.change(), of, &key, Some(generation), artifacts::Left::Refused)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let mut tx = h.db.store.tenant_read(h.tenant).await.unwrap();
    let left = artifacts::list(&mut tx, h.project, ArtifactKind::Agent, &Page::default()).await.unwrap();
    assert_eq!(left.items.iter().map(|a| a.tag.as_str()).collect::<Vec<_>>(), ["2"]);
    assert!(
        artifacts::list(&mut tx, h.project, ArtifactKind::Server, &Page::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
    // The other kind of the same name is another thing.
    let by_id = ArtifactKey::Id(left.items[0].metadata.id);
    assert!(artifacts::get(&mut tx, h.project, ArtifactKind::Server, &by_id).await.is_err());
}

#[tokio::test]
async fn a_secret_is_sealed_for_its_row_and_generation_and_opens_with_any_key_that_ever_sealed() {
    let h = House::new().await;
    let (old, both) = (keys(&[1]), keys(&[1, 2]));
    let new = New { name: name("token"), labels: Labels::default(), spec: value("hush-hush") };
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let made = secrets::insert(&mut tx, &h.change(), h.project, &new, &old).await.unwrap();
    let second = New { name: name("second"), ..new.clone() };
    let second = secrets::insert(&mut tx, &h.change(), h.project, &second, &old).await.unwrap();
    tx.commit().await.unwrap();
    let mut owner = PgConnection::connect(&h.db.owner_url()).await.unwrap();
    let sealed: Vec<(Vec<u8>, Vec<u8>)> =
        sqlx::query_as("SELECT sealed, nonce FROM secrets").fetch_all(&mut owner).await.unwrap();
    assert!(sealed.iter().all(|(s, _)| !s.windows(4).any(|w| w == b"hush")), "it stands there in the clear");
    assert_ne!(sealed[0], sealed[1], "equal values look equal");

    let names = [name("token"), name("not-there")];
    let reveal = async |keys: &SealingKeys| {
        let mut tx = h.db.store.system().await.unwrap();
        secrets::reveal(&mut tx, h.project, &names, keys).await
    };
    let revealed = reveal(&both).await.unwrap();
    assert_eq!((revealed.len(), revealed[&name("token")].1.expose()), (1, "hush-hush"));
    // The newest key seals from now on; the same value again is no change, another one is the next generation.
    let set = async |text: &str, keys: &SealingKeys| {
        let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
        let update = Update { expected: None, labels: None, spec: value(text) };
        let key = Key::Name(name("token"));
        let set = secrets::update(&mut tx, &h.change(), h.project, &key, &update, keys).await.unwrap();
        tx.commit().await.unwrap();
        set.metadata.generation
    };
    assert_eq!(set("hush-hush", &both).await, Generation(1));
    assert_eq!(set("other", &both).await, Generation(2));
    let refused = reveal(&old).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Refused(r) if r.code == "secret_unreadable" && r.message.contains("key 2")),
        "{refused}"
    );
    assert_eq!(reveal(&both).await.unwrap()[&name("token")].0, Generation(2));
    // A value of another row, or of another generation, does not open in this one.
    for moved in [
        format!(
            "UPDATE secrets t SET sealed = s.sealed, nonce = s.nonce, key_id = s.key_id FROM secrets s WHERE t.id = '{}' AND s.id = '{}'",
            made.id(),
            second.id()
        ),
        format!("UPDATE secrets SET generation = 1 WHERE id = '{}'", made.id()),
    ] {
        let mut tx = owner.begin().await.unwrap();
        sqlx::query("ALTER TABLE secrets NO FORCE ROW LEVEL SECURITY").execute(&mut *tx).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(moved)).execute(&mut *tx).await.unwrap();
        sqlx::query("ALTER TABLE secrets FORCE ROW LEVEL SECURITY").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        let refused = reveal(&both).await.unwrap_err();
        assert!(matches!(&refused, Error::Refused(r) if r.code == "secret_unreadable"), "{refused}");
    }
    // Nobody is locked out by it: setting it anew mends it.
    set("mended", &both).await;
    assert_eq!(reveal(&both).await.unwrap()[&name("token")].1.expose(), "mended");
    assert!(SealingKeys::new([]).is_none() && SealingKeys::new([(1, vec![0; 31])]).is_none());
}

#[tokio::test]
async fn a_secret_that_a_provider_gets_in_with_is_kept_and_a_platform_stays() {
    let h = House::new().await;
    let keys = keys(&[1]);
    let spec: ProviderSpec =
        serde_json::from_value(json!({"platform": "kubernetes", "kubeconfig": {"secret": "kubeconfig"}}))
            .unwrap();
    let new = New { name: name("cluster"), labels: Labels::default(), spec: spec.clone() };
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let refused = providers::insert(&mut tx, &h.change(), h.project, &new).await.unwrap_err();
    assert!(
        matches!(refused, Error::ReferenceNotFound { kind: "secret", field, .. } if field == "spec.kubeconfig.secret")
    );
    drop(tx);
    let secret = New { name: name("kubeconfig"), labels: Labels::default(), spec: value("apiVersion: v1") };
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    secrets::insert(&mut tx, &h.change(), h.project, &secret, &keys).await.unwrap();
    let made = providers::insert(&mut tx, &h.change(), h.project, &new).await.unwrap();
    // Whatever the platform calls the field.
    let place = json!({"platform": "basalt", "access": {"secret": "kubeconfig"}, "project": "p", "image": "i",
        "network": "n"});
    let other =
        New { name: name("vms"), labels: Labels::default(), spec: serde_json::from_value(place).unwrap() };
    let other = providers::insert(&mut tx, &h.change(), h.project, &other).await.unwrap();
    tx.commit().await.unwrap();

    let delete = async || {
        let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
        let key = Key::Name(name("kubeconfig"));
        let gone = secrets::delete(&mut tx, &h.change(), h.project, &key, None).await;
        tx.commit().await.unwrap();
        gone
    };
    assert!(
        matches!(delete().await, Err(Error::InUse { by, .. }) if by == ["provider/cluster", "provider/vms"])
    );
    let mut tx = h.db.store.system().await.unwrap();
    let refused = basalt_store::projects::delete(&mut tx, &h.change(), h.project).await.unwrap_err();
    let holds =
        |by: &[String]| ["provider/cluster", "secret/kubeconfig"].iter().all(|n| by.iter().any(|b| b == n));
    assert!(matches!(&refused, Error::InUse { kind: "project", by, .. } if holds(by)), "{refused}");
    drop(tx);
    let key = Key::from(made.id());
    let mut tx = h.db.store.tenant(h.tenant).await.unwrap();
    let local = serde_json::from_value(json!({"platform": "local"})).unwrap();
    let update = Update { expected: None, labels: None, spec: local };
    let refused = providers::update(&mut tx, &h.change(), h.project, &key, &update).await.unwrap_err();
    assert!(matches!(refused, Error::Immutable { field, .. } if field == "spec.platform"));
    let labels = Some(Labels::from_iter([("site", "a")]));
    let update = Update { expected: None, labels, spec };
    let labelled = providers::update(&mut tx, &h.change(), h.project, &key, &update).await.unwrap();
    assert_eq!(labelled.metadata.generation, Generation::FIRST, "labels move no generation");
    for key in [key, Key::from(other.id())] {
        providers::delete(&mut tx, &h.change(), h.project, &key, None, false).await.unwrap();
    }
    tx.commit().await.unwrap();
    delete().await.unwrap();
}
