output "pool_ids" {
  description = "Ids of the node pools by name, system among them."
  value = merge(
    { system = google_container_node_pool.system.id },
    { for name, pool in google_container_node_pool.gpu : name => pool.id },
  )
}
