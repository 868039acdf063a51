//! Guests that do not begin as the usual one: under UEFI, and from a disc beside an empty disk.

use crate::cluster::{Cluster, until};
use basalt_cli::upload::upload;
use basalt_lab::journey;
use basalt_wire::rest::{Host, TransferGrant};
use serde_json::{Value, json};
use std::{net::Ipv4Addr, path::Path, time::Duration};

const SECTOR: usize = 2048;
/// What the disc's program writes to the serial port.
const GREETING: &[u8] = b"booted from the disc\r\n";

/// A program of real mode, loaded at 0x7c00: writes the text behind it to the first serial port, and halts.
const PROGRAM: [u8; 35] = [
    0xfa, // cli
    0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
    0xfc, // cld
    0xbe, 0x23, 0x7c, // mov si, 0x7c23: behind the program
    0xac, // next: lodsb
    0x84, 0xc0, 0x74, 0x12, // test al, al; jz end
    0x88, 0xc4, // mov ah, al
    0xba, 0xfd, 0x03, // mov dx, 0x3fd: line status
    0xec, 0xa8, 0x20, 0x74, 0xfb, // wait: in al, dx; test al, 0x20; jz wait
    0x88, 0xe0, // mov al, ah
    0xba, 0xf8, 0x03, // mov dx, 0x3f8: data
    0xee, 0xeb, 0xe9, // out dx, al; jmp next
    0xf4, 0xeb, 0xfd, // end: hlt; jmp end
];

/// A disc that a BIOS boots from: ISO 9660 with an El Torito catalog that names one program, without emulation.
fn disc() -> Vec<u8> {
    const DESCRIPTORS: usize = 16;
    let (catalog, program, sectors) = (19u32, 20u32, 24usize);
    let mut disc = vec![0; sectors * SECTOR];
    let mut put = |sector: usize, at: usize, bytes: &[u8]| {
        disc[sector * SECTOR + at..][..bytes.len()].copy_from_slice(bytes);
    };
    for (n, kind) in [1u8, 0, 255].into_iter().enumerate() {
        put(DESCRIPTORS + n, 0, &[kind]);
        put(DESCRIPTORS + n, 1, b"CD001\x01");
    }
    put(DESCRIPTORS, 8, &[b' '; 64]);
    put(DESCRIPTORS, 40, b"BASALTDISC");
    // Numbers stand in both byte orders.
    put(DESCRIPTORS, 80, &[sectors as u8, 0, 0, 0, 0, 0, 0, sectors as u8]);
    put(DESCRIPTORS, 120, &[1, 0, 0, 1, 1, 0, 0, 1, 0, 8, 8, 0]);
    put(DESCRIPTORS + 1, 7, b"EL TORITO SPECIFICATION");
    put(DESCRIPTORS + 1, 71, &catalog.to_le_bytes());
    // The words of the first entry sum up to zero; 0x55aa is one of them.
    put(catalog as usize, 0, &[1]);
    put(catalog as usize, 28, &[0xaa, 0x55, 0x55, 0xaa]);
    put(catalog as usize, 32, &[0x88, 0, 0, 0, 0, 0, 4, 0]);
    put(catalog as usize, 40, &program.to_le_bytes());
    put(program as usize, 0, &PROGRAM);
    put(program as usize, PROGRAM.len(), GREETING);
    disc
}

async fn add_image(cluster: &Cluster, name: &str, format: &str, file: &Path) {
    let images = format!("/v1/projects/{}/images", journey::PROJECT);
    let size = std::fs::metadata(file).unwrap().len();
    let body = json!({"name": name, "spec": {"format": format, "size_bytes": size}});
    let declared = cluster.post(&images, &body).await;
    let grant: TransferGrant = cluster
        .client
        .call(&format!("{images}/{name}/upload"))
        .await
        .unwrap_or_else(|e| panic!("{}", e.text()));
    upload(cluster.client.http(), &grant, file, |_| {}).await.unwrap_or_else(|e| panic!("{}", e.text()));
    cluster.follow(&declared).await;
}

async fn add_vm(cluster: &Cluster, name: &str, spec: Value) -> Value {
    let mut body =
        json!({"name": name, "spec": {"cpus": 1, "memory_bytes": 268_435_456u64, "stop_grace_seconds": 1}});
    body["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    cluster.post(&format!("/v1/projects/{}/vms", journey::PROJECT), &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_v10_guests_boot_under_uefi_and_from_a_disc_beside_an_empty_disk() {
    let cluster = Cluster::up().await;
    let project = format!("/v1/projects/{}", journey::PROJECT);
    cluster.post("/v1/projects", &json!({"name": journey::PROJECT})).await;
    let guest = cluster.lab.guest_image(&mut |_| {}).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("disc.iso");
    std::fs::write(&file, disc()).unwrap();
    add_image(&cluster, "disc", "iso", &file).await;
    add_image(&cluster, journey::IMAGE, "qcow2", &guest.path).await;
    cluster.post(&format!("{project}/security-groups"), &journey::security_group()).await;
    let groups = [journey::SECURITY_GROUP];
    let network =
        json!({"name": journey::NETWORK, "spec": {"cidr": "10.10.0.0/24", "security_groups": groups}});
    let network = cluster.post(&format!("{project}/networks"), &network).await;
    cluster.follow(&network).await;
    until("the host is ready, with OVMF", Duration::from_secs(60), async || {
        let host: Host = cluster.client.get("/v1/hosts/h1").await.unwrap_or_else(|e| panic!("{}", e.text()));
        host.facts.is_some_and(|f| f.uefi && f.accelerator().is_some())
    })
    .await;

    // The guest itself says what brought it up.
    let user_data = "#cloud-config\nruncmd:\n  - ls -d /sys/firmware/efi > /www/firmware\n";
    let uefi = add_vm(
        &cluster,
        "uefi",
        json!({"firmware": "uefi", "nics": [{"network": journey::NETWORK}],
            "disks": [{"name": "root", "source": {"kind": "image", "image": journey::IMAGE}}],
            "cloud_init": {"user_data": user_data}}),
    )
    .await;
    let installer = add_vm(
        &cluster,
        "installer",
        json!({"disks": [{"name": "root", "source": {"kind": "blank"}, "size_bytes": 1u64 << 30},
            {"name": "cd", "source": {"kind": "iso", "image": "disc"}}]}),
    )
    .await;
    cluster.follow(&installer).await;
    until("the disc's program writes", Duration::from_secs(60), async || {
        let log = cluster.client.stream(&format!("{project}/vms/installer/console")).await;
        let log = log.unwrap_or_else(|e| panic!("{}", e.text())).bytes().await.unwrap();
        log.windows(GREETING.len()).any(|w| w == GREETING)
    })
    .await;

    cluster.follow(&uefi).await;
    let address: Ipv4Addr = uefi["object"]["nics"][0]["address"].as_str().unwrap().parse().unwrap();
    assert_eq!(cluster.page(address, "/firmware").await.trim(), "/sys/firmware/efi");
    // What the firmware remembers is the VM's, and goes with it.
    let variables = cluster.host().dir().join("lib-libvirt/qemu/nvram");
    let count = || std::fs::read_dir(&variables).map_or(0, Iterator::count);
    assert_eq!(count(), 1, "{}", variables.display());
    for name in ["uefi", "installer"] {
        let gone = cluster.client.delete(&format!("{project}/vms/{name}")).await;
        cluster.follow(&gone.unwrap_or_else(|e| panic!("{}", e.text()))).await;
    }
    assert_eq!(count(), 0);
}
