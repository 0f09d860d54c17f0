# The arithmetic of the loads that Saccade is made for.

variables {
  cloud  = "aws"
  name   = "vision"
  region = "eu-central-1"
  zones  = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
}

# 100 cameras of 10 pictures a second; an A100 answers 1,455 a second in batches of 32.
run "a_thousand_a_second_need_one_a100_and_two_for_redundancy" {
  command = plan
  variables {
    pools  = { a100 = { machine_type = "p4d.24xlarge" } }
    sizing = { target_rps = 1000, rps_per_replica = 1455 }
  }
  assert {
    condition     = output.sizes.arithmetic[0] == "peak: ceil(1000 rps x 130 % / 1455 rps per replica) = 1"
    error_message = output.sizes.arithmetic[0]
  }
  assert {
    condition     = output.sizes.replicas_min == 2 && output.sizes.replicas_max == 2
    error_message = jsonencode(output.sizes)
  }
  assert {
    condition     = output.pools["a100"].min_nodes == 1 && output.pools["a100"].replicas_per_node == 8
    error_message = "two replicas fit onto one machine of eight"
  }
}

# 10,000 a second on A10Gs, 10 to 50 replicas: 220 a second of each, a fifth of the load at night, 10 % of headroom.
run "ten_thousand_a_second_on_a10gs_need_ten_to_fifty_replicas" {
  command = plan
  variables {
    pools  = { a10g = { machine_type = "g5.xlarge" } }
    sizing = { target_rps = 10000, base_rps = 2000, rps_per_replica = 220, headroom_percent = 10 }
  }
  assert {
    condition     = output.sizes.replicas_min == 10 && output.sizes.replicas_max == 50
    error_message = jsonencode(output.sizes)
  }
  assert {
    condition     = output.pools["a10g"].min_nodes == 10 && output.pools["a10g"].max_nodes == 50
    error_message = jsonencode(output.pools["a10g"])
  }
}

run "a_canary_of_a_quarter_has_gpus_beside_the_peak" {
  command = plan
  variables {
    pools  = { a10g = { machine_type = "g5.xlarge" } }
    sizing = { target_rps = 10000, base_rps = 2000, rps_per_replica = 220, headroom_percent = 10, canary_percent = 25 }
  }
  assert {
    # ceil(10000 x 25 % x 110 % / 220) = 13, more than the 10 that a revision starts with.
    condition     = output.sizes.replicas_surge == 13 && output.pools["a10g"].max_nodes == 63
    error_message = jsonencode(output.sizes)
  }
}

run "a_small_canary_still_starts_with_all_that_there_are_at_least" {
  command = plan
  variables {
    pools  = { a10g = { machine_type = "g5.xlarge" } }
    sizing = { target_rps = 10000, base_rps = 2000, rps_per_replica = 220, headroom_percent = 10, canary_percent = 5 }
  }
  assert {
    condition     = output.sizes.replicas_surge == 10 && output.pools["a10g"].max_nodes == 60
    error_message = jsonencode(output.sizes)
  }
}

run "stopping_first_needs_no_further_gpu" {
  command = plan
  variables {
    pools  = { a10g = { machine_type = "g5.xlarge" } }
    sizing = { max_replicas = 2, rollout = "stop_then_start" }
  }
  assert {
    condition     = output.sizes.replicas_surge == 0 && output.pools["a10g"].max_nodes == 2
    error_message = jsonencode(output.sizes)
  }
}

run "whole_quotients_are_not_rounded_up" {
  command = plan
  variables {
    pools  = { a10g = { machine_type = "g5.xlarge" } }
    sizing = { target_rps = 1000, rps_per_replica = 110, headroom_percent = 10 }
  }
  assert {
    condition     = output.sizes.replicas_max == 10
    error_message = jsonencode(output.sizes)
  }
}
