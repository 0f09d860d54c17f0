# All of the rules that come with tflint: names, descriptions, types, what is declared and not used, files where they belong.
plugin "terraform" {
  enabled = true
  preset  = "all"
}
