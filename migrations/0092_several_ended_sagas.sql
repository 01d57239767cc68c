-- As 0091 for the sagas that have ended.
alter table saga_ended drop constraint saga_ended_subject_id_definition_key;
