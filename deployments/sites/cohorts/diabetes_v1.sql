-- Adults with type 2 diabetes, and whether a chronic kidney disease is recorded within
-- five years: one row for each person, over OMOP CDM 5.4.
-- In the form that ATLAS writes: concept sets, events, inclusion, then what is told of
-- each person. No temporary tables; runs on DuckDB, PostgreSQL and MariaDB.
WITH codesets AS (
  SELECT 0 AS codeset_id, 201826 AS concept_id   -- type 2 diabetes mellitus
  UNION ALL SELECT 1, 46271022                   -- chronic kidney disease
  UNION ALL SELECT 2, 3004410                    -- HbA1c in blood
  UNION ALL SELECT 3, 3004249                    -- systolic blood pressure
),
primary_events AS (
  SELECT c.person_id,
         c.condition_start_date AS start_date,
         ROW_NUMBER() OVER (PARTITION BY c.person_id ORDER BY c.condition_start_date, c.condition_occurrence_id) AS ordinal,
         COUNT(*) OVER (PARTITION BY c.person_id) AS n_events
  FROM omop.condition_occurrence c
  JOIN codesets s ON s.concept_id = c.condition_concept_id AND s.codeset_id = 0
),
included_events AS (
  SELECT e.person_id, e.start_date, p.gender_concept_id,
         EXTRACT(YEAR FROM e.start_date) - p.year_of_birth AS age
  FROM primary_events e
  JOIN omop.person p ON p.person_id = e.person_id
  WHERE e.ordinal = 1 AND e.n_events >= 2
    AND EXTRACT(YEAR FROM e.start_date) - p.year_of_birth >= 18
),
baseline AS (
  SELECT i.person_id, s.codeset_id, m.value_as_number,
         ROW_NUMBER() OVER (PARTITION BY i.person_id, s.codeset_id ORDER BY m.measurement_date DESC, m.measurement_id DESC) AS ordinal
  FROM included_events i
  JOIN omop.measurement m ON m.person_id = i.person_id AND m.measurement_date <= i.start_date
  JOIN codesets s ON s.concept_id = m.measurement_concept_id
  WHERE m.value_as_number IS NOT NULL
),
outcomes AS (
  SELECT DISTINCT i.person_id
  FROM included_events i
  JOIN omop.condition_occurrence c ON c.person_id = i.person_id AND c.condition_start_date > i.start_date
    AND EXTRACT(YEAR FROM c.condition_start_date) <= EXTRACT(YEAR FROM i.start_date) + 5
  JOIN codesets s ON s.concept_id = c.condition_concept_id AND s.codeset_id = 1
)
SELECT i.person_id,
       i.age,
       CASE i.gender_concept_id WHEN 8532 THEN 1 ELSE 0 END AS female,
       h.value_as_number AS hba1c,
       b.value_as_number AS sbp,
       CASE WHEN o.person_id IS NULL THEN 0 ELSE 1 END AS ckd
FROM included_events i
JOIN baseline h ON h.person_id = i.person_id AND h.codeset_id = 2 AND h.ordinal = 1
JOIN baseline b ON b.person_id = i.person_id AND b.codeset_id = 3 AND b.ordinal = 1
LEFT JOIN outcomes o ON o.person_id = i.person_id
ORDER BY i.person_id;
