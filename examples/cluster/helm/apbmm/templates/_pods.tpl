{{- define "apbmm.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "apbmm.master" -}}
{{ .Release.Name }}-master
{{- end }}

{{/* The labels of one kind of pod: (dict "root" $ "component" NAME). */}}
{{- define "apbmm.labels" -}}
app.kubernetes.io/name: apbmm
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* A master's pod: its metadata and spec. */}}
{{- define "apbmm.masterPod" -}}
metadata:
  labels:
    {{- include "apbmm.labels" (dict "root" . "component" "master") | nindent 4 }}
  annotations:
    # Another run file starts the master anew.
    apbmm/run-file: {{ .Values.run | sha256sum }}
spec:
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  # As process 1, which it is otherwise, it would not hear a SIGTERM in its first second.
  shareProcessNamespace: true
  securityContext: {{- toYaml .Values.securityContext | nindent 4 }}
  initContainers:
    # Keys must be readable by their owner alone, which a mounted secret is not. The allow-list stays
    # a mount: it is read again whenever it changes.
    - name: keys
      image: {{ include "apbmm.image" . }}
      command: ["sh", "-euc"]
      args:
        - |
          umask 077
          mkdir -p /keys/own
          cp /secret/* /keys/own
          ln -sfn /allowed /keys/own/allowed
      volumeMounts:
        - {name: secret, mountPath: /secret}
        - {name: keys, mountPath: /keys}
  containers:
    - name: master
      image: {{ include "apbmm.image" . }}
      command: ["apbmm-master"]
      env:
        - {name: APBMM_RUN_FILE, value: /etc/apbmm/run.toml}
        - {name: APBMM_RUN_DIR, value: /var/lib/apbmm/run}
        - {name: APBMM_BIND, value: "tcp://0.0.0.0:5711"}
        - {name: APBMM_KEYS, value: /keys/own}
        - {name: APBMM_LOG_FORMAT, value: json}
        {{- if .Values.metrics.enabled }}
        - {name: APBMM_METRICS, value: "0.0.0.0:{{ .Values.metrics.port }}"}
        {{- end }}
        {{- with .Values.master.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: workers, containerPort: 5711}
        {{- if .Values.metrics.enabled }}
        - {name: metrics, containerPort: {{ .Values.metrics.port }}}
        {{- end }}
      resources: {{- toYaml .Values.master.resources | nindent 8 }}
      volumeMounts:
        - {name: journal, mountPath: /var/lib/apbmm}
        - {name: run, mountPath: /etc/apbmm, readOnly: true}
        - {name: keys, mountPath: /keys}
        - {name: allowed, mountPath: /allowed, readOnly: true}
  volumes:
    - name: journal
      persistentVolumeClaim: {claimName: {{ include "apbmm.master" . }}}
    - name: secret
      secret: {secretName: {{ .Values.keys.master }}}
    - name: allowed
      secret: {secretName: {{ .Values.keys.allowed }}}
    - name: keys
      emptyDir: {medium: Memory}
    - name: run
      configMap: {name: {{ include "apbmm.master" . }}}
{{- end }}

{{/*
A worker's pod: (dict "root" $ "pool" POOL "name" VARIABLES "state" VOLUME_SOURCE "command" COMMAND).
"name" has the variables that make APBMM_NAME. "state" is the volume of the outbox, left out where
the set makes it. "command" is apbmm-worker alone where it is left out.
*/}}
{{- define "apbmm.workerPod" -}}
metadata:
  labels:
    {{- include "apbmm.labels" (dict "root" .root "component" .pool.name) | nindent 4 }}
spec:
  # SIGTERM finishes the evaluation in hand.
  terminationGracePeriodSeconds: {{ .root.Values.terminationGracePeriodSeconds }}
  # Kubernetes' own process 1 then reaps what an engine that was killed leaves behind.
  shareProcessNamespace: true
  securityContext: {{- toYaml .root.Values.securityContext | nindent 4 }}
  {{- with .pool.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .pool.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  initContainers:
    # Each worker gets its own key, and sees no other's.
    - name: keys
      image: {{ include "apbmm.image" .root }}
      command: ["sh", "-euc"]
      args:
        - |
          umask 077
          mkdir -p /keys/own
          cp /secret/master.key "/secret/$APBMM_NAME.key_secret" /keys/own
      env: {{- .name | nindent 8 }}
      volumeMounts:
        - {name: secret, mountPath: /secret}
        - {name: keys, mountPath: /keys}
  containers:
    - name: worker
      image: {{ include "apbmm.image" .root }}
      command: {{ .command | default (list "apbmm-worker") | toJson }}
      env: {{- .name | nindent 8 }}
        # The pod sees its own cards alone, and calls them 0, 1, ...
        - {name: APBMM_GPU, value: {{ until (int .pool.gpus) | join "," | quote }}}
        - {name: APBMM_MASTER, value: "tcp://{{ include "apbmm.master" .root }}:5711"}
        - {name: APBMM_KEYS, value: /keys/own}
        - {name: APBMM_STATE, value: /var/lib/apbmm}
        - {name: APBMM_SCRATCH, value: /scratch}
        # The run file's own paths may be read below it.
        - {name: APBMM_ROOT, value: {{ .root.Values.models.path }}}
        # Where vLLM keeps what it compiled. User 1000 has no home of its own in the image.
        - {name: HOME, value: /scratch}
        - {name: APBMM_LOG_FORMAT, value: json}
      resources:
        {{- $resources := .pool.resources | default dict }}
        requests: {{- toYaml ($resources.requests | default dict) | nindent 10 }}
        limits: {{- toYaml (merge (dict "nvidia.com/gpu" (toString .pool.gpus)) ($resources.limits | default dict)) | nindent 10 }}
      volumeMounts:
        # What is not delivered yet is to survive the container, and with a stateful set the pod.
        - {name: state, mountPath: /var/lib/apbmm}
        - {name: scratch, mountPath: /scratch}
        - {name: keys, mountPath: /keys}
        - {name: models, mountPath: {{ .root.Values.models.path }}, readOnly: true}
        - {name: shm, mountPath: /dev/shm}
  volumes:
    - name: secret
      secret: {secretName: {{ .root.Values.keys.workers }}}
    - name: keys
      emptyDir: {medium: Memory}
    - name: models
      persistentVolumeClaim: {claimName: {{ .root.Values.models.claim }}, readOnly: true}
    - name: scratch
      emptyDir: {}
    # vLLM's processes share memory.
    - name: shm
      emptyDir: {medium: Memory, sizeLimit: 16Gi}
    {{- with .state }}
    - name: state
      {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}
